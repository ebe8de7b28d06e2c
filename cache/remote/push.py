"""Pushing a cache to a URL: what is missing moves, and the manifest comes last."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.machine.progress import OnBytes
from cache.remote.remote import Remote, in_threads, is_local
from cache.remote.schemes import open_remote
from cache.remote.transfer import (
    CARD_NAME,
    JOBS,
    Transfer,
    parse_manifest,
    require_same_or_extended,
)
from cache.storage.manifest import MANIFEST_NAME, PLAN_NAME, FileRecord, Manifest

JOURNAL_NAME = "manifest.json.pushing"
"""The manifest of the push under way: what it records and has its size was put by it whole."""


def push(
    directory: Path,
    url: str,
    *,
    card: str,
    jobs: int = JOBS,
    replace: bool = False,
    verify: bool = False,
    on_bytes: OnBytes = lambda number: None,
    on_total: OnBytes = lambda number: None,
) -> Transfer:
    """Make the folder at a URL the cache in `directory`; only what is missing or different moves.

    Each file is compared with the manifest's sha256 before it leaves, and its size with the
    remote's afterwards. What is at a URL is known by what the manifest there says and by its size,
    until `verify` reads it; a folder is always read. One push to a URL at a time: remotes have no
    locks.

    Args:
        directory: a complete cache.
        url: of the remote, or a local folder.
        card: README.md of the remote.
        jobs: files at once.
        replace: overwrite another cache, and trust nothing that is there.
        verify: read every file back and compare its sha256, before and after what moves.
        on_bytes: called with bytes that left; negative where a try is taken back.
        on_total: called with the bytes that have to move.

    Raises:
        CacheError: the cache is incomplete or damaged, or the remote holds another one or
            refuses. RemoteUnreachable: no answer.
    """
    manifest = Manifest.read(directory)
    raw = (directory / MANIFEST_NAME).read_bytes()
    remote = open_remote(url)
    sizes = remote.sizes()
    if not replace:
        _require_cache_or_empty(url, sizes)
    found = _found(remote, sizes, MANIFEST_NAME, damaged_is_absent=replace)
    if found is not None and not replace:
        require_same_or_extended(found, manifest, url, "push elsewhere, or give --replace")
    same_size = [file for file in manifest.files if sizes.get(file.path) == file.num_bytes]
    verify = verify or is_local(url)
    if verify:
        there = _read_back(remote, same_size, jobs)
    elif replace:
        there = {}
    else:
        begun = _found(remote, sizes, JOURNAL_NAME, damaged_is_absent=True)
        records = [file for one in (found, begun) if one is not None for file in one.files]
        there = {file.path: file.sha256 for file in records}
    whole = {file.path for file in same_size if there.get(file.path) == file.sha256}
    missing = [file for file in manifest.files if file.path not in whole]
    done = Transfer.of(manifest.files, missing)
    if missing or found != manifest:
        _require_local(directory, missing)
        on_total(done.num_bytes)
        _clear(remote, sizes, found, manifest, missing)
        remote.write({JOURNAL_NAME: raw})
        remote.write({PLAN_NAME: (directory / PLAN_NAME).read_bytes()})
        _put(remote, directory, missing, jobs, on_bytes)
        _require_sizes(remote, missing)
        if verify:
            _require_sums(remote, missing, _read_back(remote, missing, jobs))
    plan = (directory / PLAN_NAME).read_bytes()
    _write_last(remote, {PLAN_NAME: plan, CARD_NAME: card.encode(), MANIFEST_NAME: raw})
    if JOURNAL_NAME in remote.sizes():
        remote.delete([JOURNAL_NAME])
    return done


def _found(
    remote: Remote, sizes: Mapping[str, int], name: str, *, damaged_is_absent: bool
) -> Manifest | None:
    if name not in sizes:
        return None
    raw = remote.read(name)
    try:
        return parse_manifest(raw, remote.where(name))
    except CacheError as error:
        if damaged_is_absent:
            return None
        raise CacheError(f"{error}\nTo overwrite it, give --replace.") from error


def _require_cache_or_empty(url: str, sizes: Mapping[str, int]) -> None:
    if {MANIFEST_NAME, PLAN_NAME, JOURNAL_NAME} & set(sizes):
        return
    odd = sorted(name for name in sizes if name != CARD_NAME and not name.startswith("."))
    if odd:
        raise CacheError(
            f"{url} is not empty and holds no cache ({odd[0]}).\nPush elsewhere, or give --replace "
            "to put the cache among what is there."
        )


def _require_local(directory: Path, missing: list[FileRecord]) -> None:
    """Raise CacheError before anything moves if a file is absent or has another size."""
    for file in missing:
        path = directory / file.path
        if not path.is_file() or path.stat().st_size != file.num_bytes:
            raise CacheError(
                f"{path} is missing or has another size than the manifest records. Nothing was "
                "pushed.\nGive the command again that made this cache, or pull the rest of it."
            )


def _clear(
    remote: Remote,
    sizes: Mapping[str, int],
    found: Manifest | None,
    manifest: Manifest,
    missing: list[FileRecord],
) -> None:
    """Delete what is not this cache's, the manifest that vouches for it first.

    The journal of another push must never stand beside a file that it does not describe.
    """
    recorded = {file.path for file in found.files} if found else set()
    left_over = recorded - {file.path for file in manifest.files}
    stale = sorted((left_over | {file.path for file in missing}) & set(sizes))
    first = []
    if MANIFEST_NAME in sizes and (found is None or recorded & set(stale)):
        first.append(MANIFEST_NAME)
    remote.delete(first + stale)


def _put(
    remote: Remote, directory: Path, files: list[FileRecord], jobs: int, on_bytes: OnBytes
) -> None:
    def require_sound(file: FileRecord) -> None:
        if file_sha256(directory / file.path) != file.sha256:
            raise CacheError(
                f"{directory / file.path} is damaged: its sha256 is not the manifest's. It was "
                "not pushed.\nCopy it again from where the cache came from, or build it again."
            )

    for first in range(0, len(files), 8 * jobs):
        part = files[first : first + 8 * jobs]
        in_threads(part, require_sound, jobs, remote.stop)
        sources = [(file.path, directory / file.path) for file in part]
        remote.put(sources, jobs=jobs, on_bytes=on_bytes)


def _read_back(remote: Remote, files: Sequence[FileRecord], jobs: int) -> dict[str, str]:
    """The sha256 that each file has there, by its path."""
    found: dict[str, str] = {}

    def read(file: FileRecord) -> None:
        found[file.path] = remote.sha256(file.path)

    in_threads(files, read, jobs, remote.stop)
    return found


def _require_sums(remote: Remote, files: Sequence[FileRecord], found: Mapping[str, str]) -> None:
    for file in files:
        if found[file.path] != file.sha256:
            raise CacheError(
                f"{remote.where(file.path)} has the sha256 {found[file.path][:12]} after it was "
                f"put, not {file.sha256[:12]}.\nGive the same command again; the manifest was not "
                "put."
            )


def _require_sizes(remote: Remote, files: list[FileRecord]) -> None:
    sizes = remote.sizes()
    for file in files:
        if sizes.get(file.path) != file.num_bytes:
            raise CacheError(
                f"{remote.where(file.path)} has {sizes.get(file.path)} bytes after it was put, "
                f"not {file.num_bytes}.\nGive the same command again; the manifest was not put."
            )


def _write_last(remote: Remote, contents: Mapping[str, bytes]) -> None:
    """Write what differs, in its order."""
    sizes = remote.sizes()
    for name, content in contents.items():
        if sizes.get(name) != len(content) or remote.read(name) != content:
            remote.write({name: content})
