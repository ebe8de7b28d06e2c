"""Processes of this host: whether one lives, and where its pid means something."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from cache.errors import CacheError

_INITIAL_NAMESPACE = 0xEFFFFFFC
"""The one that the kernel starts with; filelock's names of hosts leave it out."""


def home() -> str:
    """Where this process's pid means something: the host and, in a container, its namespace."""
    return "-".join(filter(None, (socket.gethostname(), pid_namespace())))


def pid_namespace() -> str:
    """Of this process, as filelock adds it to a host's name; pids mean nothing in another."""
    try:
        number = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # no Linux
        number = _INITIAL_NAMESPACE
    return "" if number == _INITIAL_NAMESPACE else f"{number:x}"


def is_running(pid: int) -> bool:
    """Whether there is such a process here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def start_ticks(pid: int) -> int | None:
    """When a process started, as filelock writes it; a later one may have an earlier one's pid."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # no Linux, or gone
        return None


def launch_number(
    environment: Mapping[str, str],
    name: str,
    default: int | None = None,
    error: type[ValueError] = CacheError,
) -> int:
    """A number that torchrun or accelerate put into the environment of a process.

    Args:
        default: where it is not set; None where it must be.
        error: what is raised.

    Raises:
        ValueError: of the kind `error`: it is no whole number of 0 or more.
    """
    value = environment.get(name, "" if default is None else str(default))
    if not value.strip().isdecimal():
        raise error(
            f"{name} is {value!r} in the environment; torchrun and accelerate set it to a number. "
            f"Unset it (unset {name}), or start the command with one of them."
        )
    return int(value)
