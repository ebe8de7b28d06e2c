"""Which files a program may read, and landlock, which lets it read no others.

Readable are Python's standard library, the system's shared libraries and time zones. Folders of
installed packages are hidden even inside them: a benchmark's package brings its tests along.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator

from evaluation.sandbox.confine_libc import call, syscall

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
LINKER_CACHE = "/etc/ld.so.cache"
TIME_ZONES = "/usr/share/zoneinfo"
PACKAGES = ("site-packages", "dist-packages")

# Source: linux/landlock.h.
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
CREATE_VERSION, RULE_PATH_BENEATH = 1, 1
# Bits of file access by version: 13 at first, then REFER, TRUNCATE, IOCTL_DEV.
FILE_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
NET_VERSION, NET_BITS = 4, 0b11  # bind and connect TCP
SCOPE_VERSION, SCOPE_BITS = 6, 0b11  # abstract Unix sockets and signals stay inside


def readable_folders() -> list[tuple[str, tuple[str, ...]]]:
    """Folders a program may read, each with the names in it that stay hidden.

    The standard library comes last: it may lie in a folder of libraries, hidden there.
    """
    standard = os.path.dirname(os.path.realpath(os.__file__))
    libraries = [*LIBRARIES, os.path.join(os.path.realpath(sys.base_prefix), "lib")]
    folders = []
    for folder in dict.fromkeys(libraries):
        if os.path.isdir(folder) and not os.path.islink(folder):
            hidden = [name for name in os.listdir(folder) if name.startswith("python")]
            folders.append((folder, tuple(hidden)))
    if os.path.isdir(TIME_ZONES):
        folders.append((TIME_ZONES, ()))
    dynamic = [p for p in map(os.path.realpath, sys.path) if p.endswith("/lib-dynload")]
    for folder in dict.fromkeys((*dynamic, standard)):
        if os.path.isdir(folder):
            hidden = [name for name in PACKAGES if os.path.isdir(os.path.join(folder, name))]
            folders.append((folder, tuple(hidden)))
    return folders


def readable_paths() -> Iterator[str]:
    """Files and folders that a program may read with all that is beneath."""
    for folder, hidden in readable_folders():
        yield from (os.path.join(folder, n) for n in os.listdir(folder) if n not in hidden)
    if os.path.exists(LINKER_CACHE):
        yield LINKER_CACHE


def landlock_version() -> int:
    """Version of landlock in the running kernel; 0 where it is missing or switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, CREATE_VERSION)
    except OSError:
        return 0


def create_ruleset() -> int | None:
    """Descriptor of the rules, made once and inherited; None without landlock."""
    version = landlock_version()
    if version == 0:
        return None
    attributes = struct.pack(
        "=QQQ",
        (1 << FILE_BITS.get(version, 16)) - 1,
        NET_BITS if version >= NET_VERSION else 0,
        SCOPE_BITS if version >= SCOPE_VERSION else 0,
    )
    size = 24 if version >= SCOPE_VERSION else 16 if version >= NET_VERSION else 8
    ruleset = syscall("landlock_create_ruleset", attributes[:size], size, 0)
    for folder, _ in readable_folders():
        _allow(ruleset, folder, READ_DIR)  # names beneath it, not what the files hold
    for path in readable_paths():
        _allow(ruleset, path, READ_FILE | EXECUTE)
    return ruleset


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a dangling link: nothing to read there
    try:
        rule = struct.pack("=Qi", access, descriptor)
        syscall("landlock_add_rule", ruleset, RULE_PATH_BENEATH, rule, 0)
    except OSError:
        if access & READ_FILE:  # special files take no such rule, and stay closed
            return
        raise
    finally:
        os.close(descriptor)


def restrict(ruleset: int) -> None:
    """Put this process under the rules for good; needs no-new-privileges set before.

    Raises: OSError where landlock is switched off.
    """
    syscall("landlock_restrict_self", ruleset, 0)


def set_no_new_privileges() -> None:
    """From here on no program started by this process gains a privilege.

    Raises: OSError.
    """
    call("prctl", 38, ctypes.c_long(1), 0, 0, 0)
