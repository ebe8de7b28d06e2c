"""A folder somewhere else, by fsspec URL: list, read, fetch, put and delete its files."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from cache.errors import CacheError
from cache.machine.progress import OnBytes
from cache.remote.errors import attempt

Item = TypeVar("Item")

READ_BYTES = 1 << 22


class _Stopped(CacheError):
    """Ends transfers that run when another one failed."""


class Remote:
    """A folder behind a URL. Every method raises CacheError with a sentence."""

    def __init__(self, url: str, fs: Any, root: str):
        """The folder `root` of an fsspec filesystem, called `url` in messages."""
        self.url = url.rstrip("/")
        self._fs = fs
        self.root = root.rstrip("/")
        self.stop = Event()
        """Set where a transfer failed: the others end at their next piece."""

    @property
    def fs(self) -> Any:
        """The filesystem, to be used by the thread that asks for it."""
        return self._fs

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the folder, by path inside it; empty where it is absent."""
        return attempt(self.url, self._sizes)

    def read(self, name: str) -> bytes:
        """A whole small file."""
        return attempt(self.where(name), lambda: self.fs.cat_file(self._path(name)))

    def sha256(self, name: str) -> str:
        """Hex sha256 of a file, which is read for that and kept nowhere."""
        return attempt(self.where(name), lambda: self._sha256(name))

    def get(self, name: str, local: Path, on_bytes: OnBytes) -> None:
        """Fetch a file to a local path.

        Raises:
            OSError: the local disk is full.
        """
        counted = _counted(on_bytes, self.stop)
        attempt(
            self.where(name),
            lambda: self.fs.get_file(self._path(name), str(local), callback=counted()),
            fetching=True,
        )

    def put(self, sources: Sequence[tuple[str, Path]], *, jobs: int, on_bytes: OnBytes) -> None:
        """Put local files in, under their names, several at a time."""
        self._make_parents(name for name, _ in sources)
        in_threads(sources, lambda source: self._put(*source, on_bytes), jobs, self.stop)

    def write(self, contents: dict[str, bytes]) -> None:
        """Put small files in, in their order."""
        self._make_parents(contents)
        for name, content in contents.items():
            attempt(self.where(name), partial(self.fs.pipe_file, self._path(name), content))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, in their order."""
        for name in names:
            attempt(self.where(name), partial(self.fs.rm_file, self._path(name)))

    def where(self, name: str) -> str:
        """A file's URL, for messages."""
        return f"{self.url}/{name}"

    def _put(self, name: str, local: Path, on_bytes: OnBytes) -> None:
        counted = _counted(on_bytes, self.stop)
        attempt(
            self.where(name),
            lambda: self.fs.put_file(str(local), self._path(name), callback=counted()),
        )

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.fs.open(self._path(name), "rb") as file:
            while block := file.read(READ_BYTES):
                if self.stop.is_set():
                    raise _Stopped("stopped because another transfer failed")
                digest.update(block)
        return digest.hexdigest()

    def _make_parents(self, names: Iterable[str]) -> None:
        # On object stores there are no folders, and making one may mean making a bucket.
        if is_url(self.url) and self.url.split("://")[0] in ("s3", "s3a", "gs", "gcs"):
            return
        for folder in sorted({self._path(name).rpartition("/")[0] for name in names}):
            attempt(self.url, partial(self._make_folder, folder))

    def _make_folder(self, path: str) -> None:
        self.fs.makedirs(path, exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _sizes(self) -> dict[str, int]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        prefix = self.root + "/"
        return {
            path[len(prefix) :]: int(info["size"])
            for path, info in found.items()
            if path.startswith(prefix) and info["type"] == "file"
        }


def is_local(where: str) -> bool:
    """Whether it is a folder that this machine reads as it reads its own."""
    return not is_url(where) or where.startswith(("file://", "local://"))


def is_url(where: str) -> bool:
    """Whether it names a scheme; all else is a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", where) is not None


def in_threads(
    items: Iterable[Item], action: Callable[[Item], None], jobs: int, stop: Event
) -> None:
    """Do the action on every item, `jobs` at a time; the first failure ends the others.

    Raises:
        CacheError: of the action that failed first.
    """
    pool = ThreadPoolExecutor(max_workers=jobs)
    futures = [pool.submit(action, item) for item in items]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    except BaseException:
        stop.set()
        raise
    finally:
        failures = [f.exception() for f in futures if f.done() and f.exception() is not None]
        if failures:
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        stop.clear()
    for failure in failures:
        if failure is not None and not isinstance(failure, _Stopped):
            raise failure


def _counted(on_bytes: OnBytes, stop: Event) -> Callable[[], Any]:
    """Makes fsspec callbacks that report each new piece; a second try takes the first's back."""
    from fsspec.callbacks import Callback

    counted = 0

    def hook(size: int | None, value: int, **kwargs: Any) -> None:
        nonlocal counted
        if stop.is_set():
            raise _Stopped("stopped because another transfer failed")
        on_bytes(value - counted)
        counted = value

    return lambda: Callback(hooks={"bytes": hook})
