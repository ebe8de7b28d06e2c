"""Removing the lock of a dead process where the file system cannot exchange two names.

filelock takes a lock over by exchanging it for its own, which NFS, SMB and sshfs refuse. There
its file is removed, by one process at a time, so that whoever is next to make it holds the lock.
"""

import hashlib
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from filelock import SoftFileLease

from cache.machine.durable import PARTIAL_SUFFIX
from cache.machine.process import is_running, pid_namespace, start_ticks

_NAMESPACE_MARK = "?pidns-"


class LockWatch:
    """Watches a lock that another process holds; removes it once that process is dead."""

    def __init__(self, lock: SoftFileLease, *, seconds: float):
        self._lock = lock
        self._path = Path(lock.lock_file)
        self._seconds = seconds
        self._seen: dict[Path, tuple[tuple[bytes, int], float]] = {}

    def remove_if_dead(self) -> None:
        """Remove the lock if its process is dead here, or nobody touched it for `seconds`."""
        with suppress(OSError):  # gone, or not this user's to remove
            found = _read(self._path)  # before the process is looked for, which may be a newer one
            if self._is_untouched(self._path, found) or runs_here(self._lock) is False:
                self._remove(found)

    def _is_untouched(self, path: Path, found: tuple[bytes, int]) -> bool:
        now = time.monotonic()  # no two hosts need the same time
        if path not in self._seen or self._seen[path][0] != found:
            self._seen[path] = found, now
        return now - self._seen[path][1] > self._seconds

    def _remove(self, found: tuple[bytes, int]) -> None:
        """Remove the lock if it is the one found; its name is for one process to remove."""
        digest = hashlib.sha256(found[0]).hexdigest()[:16]
        claim = self._path.with_name(f"{self._path.name}.{digest}{PARTIAL_SUFFIX}")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:  # another removes it, or died when it did
            if self._is_untouched(claim, _read(claim)):
                claim.unlink()
            return
        try:
            if _read(self._path) == found:
                self._path.unlink()
        finally:
            claim.unlink()


def home_of(hostname: str) -> tuple[str, str]:
    """Host and pid namespace, which is "" outside of containers, of a holder's host name."""
    host, _, namespace = hostname.partition(_NAMESPACE_MARK)
    return host, namespace


def runs_here(lock: SoftFileLease) -> bool | None:
    """Whether the process that holds a lock runs on this host; None if it is of another."""
    owner = lock.owner
    if owner is None:
        return None
    host, namespace = home_of(owner.hostname)
    if host != socket.gethostname() or namespace != pid_namespace():
        return None
    if not is_running(owner.pid):
        return False
    return owner.start is None or start_ticks(owner.pid) in (None, owner.start % 2**64)


def _read(path: Path) -> tuple[bytes, int]:
    """What a lock says and when it was touched, as the server has it now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):  # forget what this host has of an earlier file
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.read(descriptor, 4096), os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
