"""One writer for a cache directory at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import CacheError

LOCK_NAME = "writer.lock"


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's writer lock for the block.

    The kernel lets the lock go when its process ends, however it ends, so a killed build
    leaves nothing to clean up.

    Raises:
        CacheError: another process holds it; its host and pid are named.
    """
    path = directory / LOCK_NAME
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise CacheError(
                f"{directory} is being written by {file.read().strip() or 'another process'}.\n"
                "Wait for it to end or stop it, or choose another --out."
            ) from error
        file.truncate(0)
        file.write(f"host {socket.gethostname()}, pid {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
