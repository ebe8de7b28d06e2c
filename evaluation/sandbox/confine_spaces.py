"""Namespaces and privileges: what the fork server leaves behind before it forks a program.

Root makes the namespaces as it is, then becomes an unprivileged user; any other user makes them
inside a user namespace of its own. Where neither is permitted (in most containers) the layers
are left out, and system-call filter and landlock carry the guarantees.
"""

import os
import struct
import sys

from evaluation.sandbox.confine_files import LINKER_CACHE, readable_folders, set_no_new_privileges
from evaluation.sandbox.confine_libc import call, syscall

# Source: linux/sched.h, linux/mount.h, linux/capability.h, linux/prctl.h.
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_BIND, MS_PRIVATE, MNT_DETACH = 0x4000, 0x1000, 1 << 18, 2
NOSUID_NODEV = 0b110
AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY_NOSUID_NODEV = -100, 0x8000, 0b111
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_PDEATHSIG, SIGKILL = 1, 9
NOBODY = 65534
NEW_ROOT = "/proc"  # always there, and no interpreter lives in it


def enter_namespaces() -> list[str]:
    """Names of the namespaces this process has moved to; empty where none is permitted.

    With `pid` among them the caller goes on in a child, the first process of its namespace: when
    it ends the kernel ends all others in it.
    """
    if sys.platform != "linux":
        return []
    flags, names = NEWNS | NEWIPC | NEWPID | NEWNET, ["pid", "net", "ipc"]
    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            call("unshare", flags)
        else:
            call("unshare", flags | NEWUSER)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
            names.insert(0, "user")
    except OSError:
        return []
    _become_first_process()
    return names


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _become_first_process() -> None:
    child = os.fork()
    if child:
        os.closerange(0, 64)
        os.waitpid(child, 0)
        os._exit(0)
    end_with_parent()


def end_with_parent() -> None:
    """Have the kernel end this process when the one that forked it ends."""
    if sys.platform == "linux":
        call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def enter_small_root() -> bool:
    """Change to a root that holds the readable folders alone, read-only; False if not permitted.

    A home folder closed to others stays readable where the interpreter lives in it: its parents
    are new, open folders.
    """
    try:
        call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
        call("mount", "root", NEW_ROOT, "tmpfs", NOSUID_NODEV, "size=1m,mode=755")
        _fill(NEW_ROOT)
        attributes = struct.pack("=QQQQ", ATTR_RDONLY_NOSUID_NODEV, 0, 0, 0)
        syscall("mount_setattr", AT_FDCWD, NEW_ROOT, AT_RECURSIVE, attributes, len(attributes))
        os.chdir(NEW_ROOT)
        syscall("pivot_root", ".", ".")
        call("umount2", ".", MNT_DETACH)
        os.chdir("/tmp")
    except OSError:
        os.chdir("/")
        return False
    return True


def _fill(root: str) -> None:
    os.makedirs(f"{root}/tmp")
    for folder, hidden in readable_folders():
        os.makedirs(root + folder, exist_ok=True)
        call("mount", folder, root + folder, None, MS_BIND | MS_REC, None)
        for name in hidden:
            if os.path.isdir(f"{folder}/{name}") and not os.path.islink(f"{folder}/{name}"):
                target = f"{root}{folder}/{name}"
                call("mount", "hidden", target, "tmpfs", NOSUID_NODEV, "size=64k,mode=755")
    for link in ("/lib", "/lib64"):
        if os.path.islink(link):
            os.symlink(os.readlink(link), root + link)
    if os.path.exists(LINKER_CACHE):
        os.makedirs(os.path.dirname(root + LINKER_CACHE), exist_ok=True)
        os.close(os.open(root + LINKER_CACHE, os.O_CREAT))
        call("mount", LINKER_CACHE, root + LINKER_CACHE, None, MS_BIND, None)


def drop_privileges() -> str:
    """Become a user without any privilege, for good: `uid`, `nocaps`, or empty if not possible.

    Root becomes nobody. It stays root, without its capabilities (`nocaps`), where nobody could
    not read the interpreter or the system does not let it change.
    """
    if os.geteuid() == 0:
        _become_nobody()
    if sys.platform == "linux":
        header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
        syscall("capset", header, bytes(24))
        set_no_new_privileges()
    if os.geteuid() != 0:
        return "uid"
    return "nocaps" if sys.platform == "linux" else ""


def _become_nobody() -> None:
    try:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        with open(os.__file__, "rb"):
            readable = True
    except OSError:
        readable = False
    try:
        os.seteuid(0)
        os.setegid(0)
        if readable:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)  # of root: real, effective and saved
    except OSError:
        return
