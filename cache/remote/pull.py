"""Caches by URL: push one, pull one, and the local folder of one that a command is given."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from cache.errors import CacheError
from cache.machine.durable import atomic_path, file_sha256, make_directory, remove_partials
from cache.machine.lock import prepare_lock, writer_lock
from cache.remote.errors import RemoteUnreachable
from cache.remote.remote import OnBytes, Remote, in_threads, is_url, open_remote
from cache.storage.manifest import MANIFEST_NAME, PLAN_NAME, FileRecord, Manifest

CARD_NAME = "README.md"
HOME_VARIABLE = "LOGITCACHE_HOME"
JOBS = 8


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a push or a pull moved."""

    num_files: int
    """Files of the cache that moved; the plan, the manifest and the card are not counted."""
    num_bytes: int
    num_kept: int
    """Files that were there already."""

    @classmethod
    def of(cls, files: Sequence[FileRecord], missing: Sequence[FileRecord]) -> "Transfer":
        """Of all files, those that are missing move."""
        return cls(
            num_files=len(missing),
            num_bytes=sum(file.num_bytes for file in missing),
            num_kept=len(files) - len(missing),
        )

    def words(self) -> str:
        """In a line, for people."""
        moved = f"{self.num_files:,} files moved ({self.num_bytes:,} bytes)"
        return f"{moved}, {self.num_kept:,} were there"


def pull(
    url: str,
    directory: Path,
    *,
    splits: Sequence[str] = (),
    jobs: int = JOBS,
    for_reading: bool = False,
    on_bytes: OnBytes = lambda number: None,
    on_total: OnBytes = lambda number: None,
) -> Transfer:
    """Make `directory` the cache at a URL; only what is missing or different moves.

    Every file is compared with the manifest's sha256 before it gets its name, and the manifest
    comes last.

    Args:
        url: of the remote, or a local folder.
        directory: absent, empty, or an earlier pull of the same cache.
        splits: whose shards to fetch; empty: all.
        jobs: files at once.
        for_reading: make sure of a copy: files that an unchanged local manifest vouches for are
            not hashed again, and splits that the cache does not have are passed over.
        on_bytes: called with bytes that arrived; negative where a try is taken back.
        on_total: called with the bytes that have to move.

    Raises:
        CacheError: there is no complete cache, the directory holds another one, a file is not
            what the manifest records, or the disk is full. RemoteUnreachable: no answer.
    """
    remote = open_remote(url)
    raw = _remote_manifest_bytes(remote)
    manifest = parse_manifest(raw, remote.where(MANIFEST_NAME))
    local = _local_manifest(directory, manifest)
    same = local is not None and (directory / MANIFEST_NAME).read_bytes() == raw
    files = wanted_files(manifest, splits, strict=not for_reading)
    hashed = not (same and for_reading)
    missing = [file for file in files if not _is_whole(directory, file, hashed=hashed)]
    done = Transfer.of(files, missing)
    if same and not missing:
        return done
    make_directory(directory)
    on_total(done.num_bytes)
    with writer_lock(directory):
        remove_partials(directory)
        if local is not None and not same:
            if {file.path for file in missing} & {file.path for file in local.files}:
                (directory / MANIFEST_NAME).unlink()
        manifest.plan.write(directory)
        in_threads(missing, lambda f: _fetch(remote, f, directory, on_bytes), jobs, remote.stop)
        if not same:
            _fetch_card(remote, directory)
            with atomic_path(directory / MANIFEST_NAME) as partial:
                partial.write_bytes(raw)
    return done


def local_cache(where: str, splits: Sequence[str] = ("train", "validation")) -> Path:
    """The local folder of a cache: a path as it is, a URL after its splits were pulled.

    Waits for another process that pulls it. Where the network is gone and an earlier call left
    all that is needed, a warning is printed.
    """
    if not is_url(where):
        return Path(where)
    directory = local_folder(where)
    from cache.share_progress import byte_progress

    make_directory(directory)
    pulling = byte_progress(f"pulling {where}")
    try:
        with prepare_lock(directory), pulling as (on_bytes, on_total):
            pull(
                where,
                directory,
                splits=splits,
                for_reading=True,
                on_bytes=on_bytes,
                on_total=on_total,
            )
    except RemoteUnreachable as error:
        if not _is_complete(directory, splits):
            raise
        click.echo(
            f"Warning: {str(error).splitlines()[0]}\nGoing on with the copy at {directory}.",
            err=True,
        )
    return directory


def local_folder(url: str) -> Path:
    """Where the cache of a URL is kept: under LOGITCACHE_HOME, or ~/.cache/logitcache."""
    home = os.environ.get(HOME_VARIABLE)
    folder = Path(home) if home else Path.home() / ".cache" / "logitcache"
    url = url.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", url.partition("://")[2]).strip("-.")[-60:]
    return folder / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def wanted_files(
    manifest: Manifest, splits: Sequence[str], *, strict: bool = True
) -> list[FileRecord]:
    """Files of a cache but the shards of other splits; all of them where none is named.

    Raises:
        CacheError: a split that the cache does not have, unless not `strict`.
    """
    by_path = {shard.path: shard.split for shard in manifest.plan.shards}
    known = set(by_path.values())
    if strict and (unknown := sorted(set(splits) - known)):
        raise CacheError(
            f"The cache has no split {unknown[0]!r}; it has {', '.join(sorted(known))}."
        )
    wanted = set(splits) or known
    return [file for file in manifest.files if by_path.get(file.path) in (None, *wanted)]


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from somewhere else, under the checks of a local one.

    Raises:
        CacheError: it is damaged, of an unknown format, or names paths that it may not.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / MANIFEST_NAME
        path.write_bytes(raw)
        try:
            manifest = Manifest.read(Path(folder))
        except CacheError as error:
            raise CacheError(str(error).replace(str(path), where)) from error
    reserved = (MANIFEST_NAME, PLAN_NAME, CARD_NAME)
    for file in manifest.files:
        if file.path in reserved or file.path.endswith(".lock"):
            raise CacheError(f"{where} lists {file.path!r} as a file of the cache; it is refused.")
    return manifest


def _remote_manifest_bytes(remote: Remote) -> bytes:
    sizes = remote.sizes()
    if MANIFEST_NAME in sizes:
        return remote.read(MANIFEST_NAME)
    if PLAN_NAME in sizes:
        raise CacheError(
            f"The cache at {remote.url} is not complete: it has a plan but no manifest.\n"
            "Whoever pushes it has to give the push command again."
        )
    raise CacheError(
        f"There is no cache at {remote.url} (no {MANIFEST_NAME}).\n"
        f"Push one: python cli.py cache push DIR {remote.url}"
    )


def _local_manifest(directory: Path, wanted: Manifest) -> Manifest | None:
    """The manifest that is there before a pull, which must be of the same cache or a smaller one.

    A folder with a plan alone is one that an earlier pull did not finish.
    """
    from cache.storage.manifest import Plan

    if (directory / MANIFEST_NAME).exists():
        local = Manifest.read(directory)
        require_same_or_extended(local, wanted, str(directory), "give another DIR")
        return local
    if (directory / PLAN_NAME).exists():
        if Plan.read(directory).identity.shard_sha256 != wanted.identity.shard_sha256:
            raise CacheError(f"{directory} holds an unfinished other cache; give another DIR.")
    elif directory.is_dir():
        odd = [path.name for path in directory.iterdir() if not path.name.endswith(".lock")]
        if odd:
            raise CacheError(
                f"{directory} is not empty and holds no cache ({odd[0]}); give another DIR."
            )
    return None


def require_same_or_extended(found: Manifest, new: Manifest, where: str, advice: str) -> None:
    """Raise CacheError unless `new` is the cache that was found, or one with more documents."""
    if found.identity.sha256 == new.identity.sha256:
        return
    if found.identity.shard_sha256 == new.identity.shard_sha256:
        records = {file.path: file.sha256 for file in new.files}
        shards = {shard.path for shard in found.plan.shards}
        if all(records.get(f.path) == f.sha256 for f in found.files if f.path in shards):
            return
    raise CacheError(
        f"{where} holds another cache: identity {found.identity.sha256[:12]} (teacher "
        f"{found.identity.teacher}), and this one is {new.identity.sha256[:12]} (teacher "
        f"{new.identity.teacher}).\nNothing was moved; {advice}."
    )


def _is_whole(directory: Path, file: FileRecord, *, hashed: bool) -> bool:
    path = directory / file.path
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    return not hashed or file_sha256(path) == file.sha256


def _is_complete(directory: Path, splits: Sequence[str]) -> bool:
    if not (directory / MANIFEST_NAME).is_file():
        return False
    files = wanted_files(Manifest.read(directory), splits, strict=False)
    return all(_is_whole(directory, file, hashed=False) for file in files)


def _fetch(remote: Remote, file: FileRecord, directory: Path, on_bytes: OnBytes) -> None:
    with atomic_path(directory / file.path) as partial:
        remote.get(file.path, partial, on_bytes)
        found = file_sha256(partial)
        if found != file.sha256:
            raise CacheError(
                f"{remote.where(file.path)} is damaged: {partial.stat().st_size:,} bytes with "
                f"sha256 {found[:12]}, the manifest records {file.num_bytes:,} with "
                f"{file.sha256[:12]}. Nothing of it was kept.\nPush it again from a sound cache."
            )


def _fetch_card(remote: Remote, directory: Path) -> None:
    if CARD_NAME in remote.sizes():
        with atomic_path(directory / CARD_NAME) as partial:
            remote.get(CARD_NAME, partial, lambda number: None)
