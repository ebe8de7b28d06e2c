"""Writing that survives a crash: files and directories that are whole or absent, sealed JSON.

All three packages write through this module. A failure is raised as the error of whoever writes:
`failure` is its class, or OSError for a caller that has a sentence of its own.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.machine.process import home, is_running

PARTIAL_SUFFIX = ".partial"
REREAD_SECONDS = 0.1
LOST_CONNECTION = (errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN)
"""What a network file system says when its server is out of reach."""


@contextmanager
def atomic_path(path: Path, failure: type[Exception] = CacheError) -> Iterator[Path]:
    """A path to write to, which becomes `path` only if the block succeeds.

    The file is fsynced and renamed; if the block raises, nothing is left behind.

    Raises:
        failure: the disk is full or the directory cannot be written.
    """
    partial = path.with_name(f"{path.name}.{home()}-{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.chmod(partial, 0o666 & ~current_umask())  # some libraries make private files
        _fsync(partial)
        os.replace(partial, path)
        _fsync(path.parent)
    except OSError as error:
        raise _failed(path, error, failure) from error
    finally:
        with suppress(OSError):  # gone, or out of reach
            partial.unlink()


def write_text(path: Path, text: str, failure: type[Exception] = CacheError) -> None:
    """Write a text file, as `atomic_path` does."""
    with atomic_path(path, failure) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(
    path: Path, content: Mapping[str, Any], failure: type[Exception] = CacheError
) -> None:
    """Write a JSON object for people to read, as `atomic_path` does."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", failure)


@contextmanager
def new_directory(path: Path, failure: type[Exception] = CacheError) -> Iterator[Path]:
    """A directory to fill, which becomes `path` only if the block succeeds.

    One process at a time writes to a path; what an earlier one left half-filled is removed.

    Raises:
        failure: the disk is full or the directory cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for below in sorted(partial.rglob("*")):
            _fsync(below)
        _fsync(partial)
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
        _fsync(path.parent)
    except OSError as error:
        raise _failed(path, error, failure) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk its space is wanted back


def make_directory(path: Path) -> None:
    """Make a directory and its parents.

    Raises:
        CacheError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # a process of another host may have this one's pid
    except OSError as error:
        raise CacheError(write_failure(path, error)) from error


def remove_partials(
    folder: Path,
    is_ours: Callable[[str], bool] = lambda name: True,
    *,
    of_the_dead: bool = False,
) -> None:
    """Delete what killed writers left half-written in a folder, by the names `atomic_path` gives.

    Args:
        folder: looked into, but not the folders in it.
        is_ours: tells of a file's name, as it would be whole, whether the caller writes it; other
            people's files may stand beside.
        of_the_dead: others write here too, so that only files of processes of this host that
            have ended, or of this one, are deleted.
    """
    for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
        if any(map(is_ours, _whole_names(path.name))):
            if not (of_the_dead and _may_be_written(path.name)):
                path.unlink(missing_ok=True)


def current_umask() -> int:
    """Permissions that new files of this process do not get."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _whole_names(partial: str) -> list[str]:
    """What a half-written file may be called once it is whole: a host's name may have dots."""
    named = re.fullmatch(rf"(.+)-\d+{re.escape(PARTIAL_SUFFIX)}", partial)
    parts = named[1].split(".") if named else []
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _may_be_written(name: str) -> bool:
    writer = name.removesuffix(PARTIAL_SUFFIX)
    _, found, pid = writer.rpartition(f".{home()}-")
    if not found or not pid.isdigit():
        return True  # of another host or container
    return int(pid) != os.getpid() and is_running(int(pid))


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_sealed_json(
    path: Path, content: dict[str, Any], failure: type[Exception] = CacheError
) -> None:
    """Write a JSON object with a checksum of itself, as `atomic_path` does."""
    with atomic_path(path, failure) as partial:
        partial.write_bytes(_sealed_bytes(content))


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The object that `write_sealed_json` wrote, without its checksum.

    Raises:
        CacheError: the file is missing, not JSON, or differs from what was written by even
            one byte.
    """
    try:
        return _read_sealed(path)
    except CacheError:
        if not path.exists():
            raise
    time.sleep(REREAD_SECONDS)  # one just replaced may be of both kinds on a network file system
    return _read_sealed(path)


def _read_sealed(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror or error}.") from error
    damaged = f"{path} is damaged: it is not what was written. Copy it again or rebuild the cache."
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CacheError(damaged) from error
    if not isinstance(content, dict) or not isinstance(content.pop("checksum", None), str):
        raise CacheError(damaged)
    if _sealed_bytes(content) != raw:
        raise CacheError(damaged)
    return content


def _sealed_bytes(content: dict[str, Any]) -> bytes:
    sealed = {**content, "checksum": json_sha256(content)}
    return (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError, failure: type[Exception]) -> Exception:
    return error if failure is OSError else failure(write_failure(path, error))


def write_failure(path: Path, error: OSError) -> str:
    """What to tell of a file or directory that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{path} could not be written: no space left on its disk. Nothing half-written is "
            "left.\nFree some space and give the same command again: it resumes where it stopped."
        )
    if error.errno in LOST_CONNECTION:
        return (
            f"{path} could not be written: {error.strerror}. The connection to its file system "
            "was lost.\nGive the same command again when it is back: it resumes where it stopped."
        )
    return (
        f"{path} could not be written: {error.strerror or error}.\n"
        "Choose another --out, or mend the permissions of that directory."
    )
