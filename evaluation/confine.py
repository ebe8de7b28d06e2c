"""Takes away what a generated program has no business with. Runs inside the child, stdlib alone.

Three layers, each used where the system has it, and named in every signature:
`netns` (own user, network and IPC namespaces: no interface but a dead loopback), `seccomp` (a
system-call filter: no sockets, processes, signals, or changes to the file system), or in its
place `audit` (a hook that refuses the same from Python code alone), and `rlimits`.

Source of the numbers: Linux `asm/unistd_64.h` and `asm-generic/unistd.h`; filter layout from
`linux/seccomp.h` and `linux/filter.h`.
"""

import os
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
CLONE_THREAD = 0x00010000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
EPERM, ENOSYS, SIGKILL = 1, 38, 9
WRITING_FLAGS = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC

# BPF: load a word of the call's data, compare, return.
LOAD, JUMP_EQ, JUMP_GE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # byte offsets in struct seccomp_data (little-endian)
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X32_CALLS = 0x40000000

# machine: (audit arch, refused calls, {call that opens: argument with its flags}, clone)
MACHINES = {
    "x86_64": (
        0xC000003E,
        # socket, socketpair, fork, vfork, execve, kill, truncate, ftruncate, rename, mkdir,
        # rmdir, creat, link, unlink, symlink, chmod .. lchown, ptrace, mknod, setrlimit, mount,
        # umount2, tkill, tgkill, mkdirat .. fchownat, unlinkat .. symlinkat, fchmodat, unshare,
        # utimensat, prlimit64, setns, process_vm_readv, process_vm_writev, renameat2, bpf,
        # execveat, io_uring_setup
        (41, 53, 57, 58, 59, 62, 76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 101, 133)
        + (160, 165, 166, 200, 234, 258, 259, 260, 263, 264, 265, 266, 268, 272, 280, 302, 308)
        + (310, 311, 316, 321, 322, 425),
        {2: 1, 257: 2},
        56,
    ),
    "aarch64": (
        0xC00000B7,
        (33, 34, 35, 36, 37, 38, 39, 40, 45, 46, 52, 53, 54, 55, 88, 97, 117, 129, 130, 131, 164)
        + (198, 199, 221, 261, 268, 270, 271, 276, 280, 281, 425),
        {56: 2},
        220,
    ),
}
CLONE3, OPENAT2 = 435, 437  # their flags lie behind a pointer; libc falls back to the older calls

REFUSED_EVENTS = (
    ("socket.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill")
    + ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
    + ("os.chmod", "os.chown", "os.startfile", "subprocess.", "shutil.", "ctypes.", "pty.")
)


def confine(memory_bytes: int, cpu_seconds: int) -> str:
    """Confine this process for good; the layers that hold, as in `netns+seccomp+rlimits`."""
    layers = []
    libc = _linux_libc()
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) == 0:
            layers.append("netns")
    limited = _limit(memory_bytes, cpu_seconds)
    if libc is not None and _filter_calls(libc):
        layers.append("seccomp")
    else:
        _limit_processes()
        sys.addaudithook(_refuse_event)
        layers.append("audit")
    if limited:
        layers.append("rlimits")
    return "+".join(layers)


def _linux_libc():
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _limit(memory_bytes: int, cpu_seconds: int) -> bool:
    try:
        import resource
    except ImportError:
        return False
    held = True
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            held = False
    return held


def _limit_processes() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except (ImportError, OSError, ValueError):
        return  # the audit hook still refuses to start any


def _refuse_event(event: str, arguments: tuple) -> None:
    if event.startswith(REFUSED_EVENTS):
        raise PermissionError(f"{event} is not allowed here")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING_FLAGS:
        raise PermissionError("writing files is not allowed here")


def _filter_calls(libc) -> bool:
    machine = MACHINES.get(os.uname().machine)
    if machine is None or sys.byteorder != "little" or sys.maxsize < 2**32:
        return False
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = build_filter(*machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0


def build_filter(arch: int, refused: tuple[int, ...], opening: dict[int, int], clone: int) -> bytes:
    """The filter as BPF instructions of 8 bytes; calls not named are allowed."""
    code = [
        (LOAD, 0, 0, ARCH),
        (JUMP_EQ, 1, 0, arch),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_GE, 0, 1, X32_CALLS),
        (RETURN, 0, 0, ERRNO | EPERM),
    ]
    for number in refused:
        code += [(JUMP_EQ, 0, 1, number), (RETURN, 0, 0, ERRNO | EPERM)]
    for number in (CLONE3, OPENAT2):
        code += [(JUMP_EQ, 0, 1, number), (RETURN, 0, 0, ERRNO | ENOSYS)]
    for number, argument in opening.items():
        code += [
            (JUMP_EQ, 0, 4, number),
            (LOAD, 0, 0, ARGUMENTS + 8 * argument),
            (JUMP_SET, 0, 1, WRITING_FLAGS),
            (RETURN, 0, 0, ERRNO | EPERM),
            (RETURN, 0, 0, ALLOW),
        ]
    code += [  # threads stay allowed: memory bounds their number
        (JUMP_EQ, 0, 3, clone),
        (LOAD, 0, 0, ARGUMENTS),
        (JUMP_SET, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, ERRNO | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
