"""Who may write to a cache directory: one process, or several workers.

A lock is a small file that names its holder. It needs no lock support of the file system, only
that a file can be made exclusively, which NFS has too. Its holder touches it while it lives: a
lock whose process is dead on this host, or which nobody on another host touches for a minute, is
taken over, with an exchange of names or, where there is none, by `dead_lock`. Readers take no lock.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from cache.errors import CacheError
from cache.machine.dead_lock import LockWatch, home_of, runs_here
from cache.machine.durable import LOST_CONNECTION, current_umask, write_failure

LOCK_NAME = "writing.lock"
PREPARE_LOCK = "preparing.lock"
WORKER_LOCKS = "worker-*.lock"
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.25
PROBE_SECONDS = 1.0
"""Locks held for less than this may be other processes' looks at a lock left behind."""


@contextmanager
def writer_lock(directory: Path) -> Iterator[None]:
    """Be the only writer of the directory for the block.

    Raises:
        CacheError: another process writes there; its host and pid are named.
    """
    with _held(directory / LOCK_NAME, directory):
        _require_unheld(sorted(directory.glob(WORKER_LOCKS)), directory)
        yield


@contextmanager
def worker_lock(directory: Path, worker: str, *, same: str) -> Iterator[None]:
    """Be the only process that is one of several workers on the directory for the block.

    Args:
        worker: its name, as in `worker-3-of-64`.
        same: pattern of the names of workers that may write at the same time.

    Raises:
        CacheError: another process is this worker, writes all, or is of another number of workers.
    """
    own = directory / f"{worker}.lock"
    with _held(own, directory, what=f" ({worker})"):
        alien = set(directory.glob(WORKER_LOCKS)) - set(directory.glob(f"{same}.lock"))
        _require_unheld([directory / LOCK_NAME, *sorted(alien)], directory)
        yield


@contextmanager
def prepare_lock(directory: Path) -> Iterator[None]:
    """Hold the lock under which the directory is prepared and finished; waits for it.

    Raises:
        CacheError: the directory cannot be written.
    """
    lock = _lease(directory / PREPARE_LOCK)
    watch = LockWatch(lock, seconds=LEASE_SECONDS)
    told = None
    while not _taken(lock, watch):
        owner = _holder(lock)
        if owner and owner != told:
            print(f"Waiting for {owner}, which prepares {directory}.", file=sys.stderr, flush=True)
            told = owner
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def _held(path: Path, directory: Path, what: str = "") -> Iterator[None]:
    lock = _lease(path)
    _take(lock, directory, what)
    try:
        yield
    except OSError as error:
        if error.errno in LOST_CONNECTION:
            raise CacheError(write_failure(directory, error)) from error
        raise
    finally:
        _release(lock)


def _take(lock: SoftFileLease, directory: Path, what: str = "") -> None:
    """Take a lock, at once or from a holder that is dead; raise CacheError if it lives."""
    watch = LockWatch(lock, seconds=LEASE_SECONDS)
    first, started, told = None, time.monotonic(), False
    while not _taken(lock, watch):
        with suppress(FileNotFoundError):
            found = lock.owner, Path(lock.lock_file).stat().st_mtime_ns
            first = first or found
            waited = time.monotonic() - started
            lives = runs_here(lock) or first != found or waited > 3 * LEASE_SECONDS
            if waited > PROBE_SECONDS:
                if lives:
                    raise _refusal(directory, _holder(lock), what)
                if not told:
                    _tell_of_the_wait(directory, _holder(lock))
                    told = True
        time.sleep(POLL_SECONDS)


def _require_unheld(paths: Iterable[Path], directory: Path) -> None:
    """Raise CacheError where a living process holds one; locks of dead ones are removed."""
    for path in paths:
        if path.exists():
            lock = _lease(path)
            _take(lock, directory, "" if path.name == LOCK_NAME else f" ({path.stem})")
            _release(lock)


def _tell_of_the_wait(directory: Path, owner: str) -> None:
    print(
        f"{directory} was being written by {owner or 'another process'}. Whether that is still so "
        f"shows within {LEASE_SECONDS:.0f} seconds; waiting.",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _refusal(directory: Path, owner: str, what: str) -> CacheError:
    return CacheError(
        f"{directory} is being written by {owner or 'another process'}{what}.\n"
        "Wait for it to end or stop it, or choose another --out."
    )


def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=LEASE_SECONDS)


def _taken(lock: SoftFileLease, watch: LockWatch) -> bool:
    try:
        lock.acquire(timeout=0)
        os.chmod(lock.lock_file, 0o666 & ~current_umask())  # so that the group can take it over
    except Timeout:
        watch.remove_if_dead()
        return False
    except OSError as error:
        owner = _holder(lock)
        if owner:  # made by a user whose files this one may not write
            raise _refusal(Path(lock.lock_file).parent, owner, "") from error
        raise CacheError(write_failure(Path(lock.lock_file), error)) from error
    return True


def _release(lock: SoftFileLease) -> None:
    with suppress(OSError):  # connection lost: the lock is found to be a dead process's
        lock.release()


def _holder(lock: SoftFileLease) -> str:
    owner = lock.owner
    if owner is None:
        return ""
    host, namespace = home_of(owner.hostname)
    return f"host {host}, pid {owner.pid}{' of a container' if namespace else ''}"
