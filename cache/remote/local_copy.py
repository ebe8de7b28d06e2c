"""The local folder of a cache that a command is given by path or URL."""

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from cache.errors import CacheWarning
from cache.machine.durable import make_directory
from cache.machine.lock import prepare_lock
from cache.remote.errors import RemoteUnreachable
from cache.remote.pull import pull
from cache.remote.remote import is_url
from cache.remote.transfer import _is_whole, wanted_files
from cache.storage.manifest import state_of

HOME_VARIABLE = "LOGITCACHE_HOME"


def local_cache(where: str, splits: Sequence[str] = ("train", "validation")) -> Path:
    """The local folder of a cache: a path as it is, a URL after its splits were pulled.

    Waits for another process that pulls it. Where the network is gone and an earlier call left
    all that is needed, a CacheWarning says so.

    Raises:
        CacheError: as `pull`; a local path is not looked at.
    """
    if not is_url(where):
        return Path(where)
    directory = local_folder(where)
    from cache.machine.progress import byte_progress

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
        warnings.warn(
            f"{str(error).splitlines()[0]}\nGoing on with the copy at {directory}.",
            CacheWarning,
            stacklevel=2,
        )
    return directory


def local_folder(url: str) -> Path:
    """Where the cache of a URL is kept: under LOGITCACHE_HOME, or ~/.cache/logitcache."""
    home = os.environ.get(HOME_VARIABLE)
    folder = Path(home) if home else Path.home() / ".cache" / "logitcache"
    url = url.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", url.partition("://")[2]).strip("-.")[-60:]
    return folder / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _is_complete(directory: Path, splits: Sequence[str]) -> bool:
    manifest = state_of(directory).manifest
    if manifest is None:
        return False
    files = wanted_files(manifest, splits, strict=False)
    return all(_is_whole(directory, file, hashed=False) for file in files)
