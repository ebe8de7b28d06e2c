"""System calls that Python has no function for, by name. Linux alone; stdlib alone."""

import ctypes
import os
import sys
from functools import lru_cache

# Numbers that differ between machines. Source: asm/unistd_64.h, asm-generic/unistd.h.
MACHINES = {
    "x86_64": {"pivot_root": 155, "capset": 126},
    "aarch64": {"pivot_root": 41, "capset": 91},
}
EVERYWHERE = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}


@lru_cache(maxsize=1)
def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def machine() -> str | None:
    """The machine's name where these tables hold: 64-bit little-endian Linux on x86 or Arm."""
    name = os.uname().machine
    fits = sys.platform == "linux" and sys.byteorder == "little" and sys.maxsize > 2**32
    return name if fits and name in MACHINES else None


def call(name: str, *arguments: object) -> int:
    """What the C library's function of that name returns.

    Raises: OSError with the call's errno.
    """
    result = getattr(libc(), name)(*map(_as_c, arguments))
    return _checked(name, result)


def syscall(name: str, *arguments: object) -> int:
    """What the kernel's call of that name returns.

    Raises: OSError with the call's errno; ENOSYS on a machine without a table.
    """
    here = machine()
    if here is None:
        raise OSError(38, f"{name}: no system-call numbers for this machine")
    number = EVERYWHERE.get(name) or MACHINES[here][name]
    libc().syscall.restype = ctypes.c_long
    return _checked(name, libc().syscall(ctypes.c_long(number), *map(_as_c, arguments)))


def _as_c(argument: object) -> object:
    """Integers at the width of a register: a variadic call reads all of it."""
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return os.fsencode(argument) if isinstance(argument, str) else argument


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
