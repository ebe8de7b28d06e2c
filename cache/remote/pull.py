"""Caches by URL: push one, pull one, and the local folder of one that a command is given."""

from collections.abc import Sequence
from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import atomic_path, file_sha256, make_directory
from cache.machine.lock import writer_lock
from cache.machine.progress import OnBytes
from cache.remote.remote import Remote, in_threads
from cache.remote.schemes import open_remote
from cache.remote.transfer import (
    CARD_NAME,
    JOBS,
    Transfer,
    _is_whole,
    parse_manifest,
    require_same_or_extended,
    wanted_files,
)
from cache.storage.left_over import remove_left_over
from cache.storage.manifest import MANIFEST_NAME, PLAN_NAME, FileRecord, Manifest, state_of


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
        remove_left_over(directory, {shard.split for shard in manifest.plan.shards})
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
    found = state_of(directory)
    if found.manifest is not None:
        require_same_or_extended(found.manifest, wanted, str(directory), "give another DIR")
        return found.manifest
    if found.plan is not None:
        if found.plan.identity.shard_sha256 != wanted.identity.shard_sha256:
            raise CacheError(f"{directory} holds an unfinished other cache; give another DIR.")
    elif directory.is_dir():
        odd = [path.name for path in directory.iterdir() if not path.name.endswith(".lock")]
        if odd:
            raise CacheError(
                f"{directory} is not empty and holds no cache ({odd[0]}); give another DIR."
            )
    return None


def _fetch(remote: Remote, file: FileRecord, directory: Path, on_bytes: OnBytes) -> None:
    with atomic_path(directory / file.path) as partial:
        remote.get(file.path, partial, on_bytes)
        found = file_sha256(partial)
        if found != file.sha256:
            raise CacheError(
                f"{remote.where(file.path)} is damaged: {partial.stat().st_size:,} bytes with "
                f"sha256 {found[:12]}, the manifest records {file.num_bytes:,} with "
                f"{file.sha256[:12]}. Nothing of it was kept.\nPush it again from a sound cache: "
                f"python cli.py cache push DIR {remote.url} --verify"
            )


def _fetch_card(remote: Remote, directory: Path) -> None:
    if CARD_NAME in remote.sizes():
        with atomic_path(directory / CARD_NAME) as partial:
            remote.get(CARD_NAME, partial, lambda number: None)
