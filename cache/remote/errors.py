"""What goes wrong between here and a remote, as sentences; and what is worth another try."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from cache.errors import CacheError

Result = TypeVar("Result")

WAITS = (0.5, 2.0, 5.0)
"""Seconds before each new try, after those of the scheme's own library."""
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "ssh": "paramiko",
    "sftp": "paramiko",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""What to install, by scheme, where fsspec has the scheme and its library is missing."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_CREDENTIALS = ("NoCredentials", "Credential", "Authentication", "TokenNotFound")
_ABSENT = ("RepositoryNotFound", "RevisionNotFound", "EntryNotFound", "NoSuchBucket")


class RemoteUnreachable(CacheError):
    """The remote does not answer, or stopped answering."""


def attempt(where: str, action: Callable[[], Result], *, fetching: bool = False) -> Result:
    """What the action returns, tried a few times where the network fails.

    Raises:
        CacheError: the remote refuses it, or is full. RemoteUnreachable: it does not answer.
        OSError: the local disk is full, when `fetching`.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except CacheError:
            raise
        except Exception as error:
            if fetching and _is_full(error):
                raise
            failure = _sentence(where, error)
            if wait is None or not isinstance(failure, RemoteUnreachable):
                raise failure from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def missing_library(scheme: str, error: Exception) -> CacheError:
    """What to install for a scheme that fsspec knows."""
    package = PACKAGES.get(scheme)
    what = f"pip install {package}" if package else str(error)
    return CacheError(f"{scheme}:// needs a library that is not installed: {what}")


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK


def _sentence(where: str, error: Exception) -> CacheError:
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if _is_full(error):
        return CacheError(
            f"{where} could not be written: {reason}.\nFree some space there and give the same "
            "command again: it resumes where it stopped."
        )
    if isinstance(error, FileNotFoundError) or any(name in names for name in _ABSENT):
        return CacheError(
            f"{where} is not there: {reason}.\nMend the URL, or make the bucket first."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    refused = isinstance(error, PermissionError) or status in (401, 403)
    if refused or any(name in names for name in _CREDENTIALS):
        return CacheError(
            f"{where} refuses access, or no credentials were found: {reason}.\n"
            "docs/sharing.md says where each scheme looks for them."
        )
    return RemoteUnreachable(
        f"{where} could not be reached, or stopped answering: {reason}.\n"
        "What has moved is kept. Give the same command again: it resumes where it stopped."
    )
