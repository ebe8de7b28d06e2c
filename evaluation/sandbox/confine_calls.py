"""The filter of system calls: what a computing Python needs is allowed, all else is refused.

Refused calls fail with EPERM and the program goes on: Python turns that into PermissionError.
Of sockets there are pairs within the program, on which asyncio wakes itself, and no others.
Refused are, among others, all other sockets, new processes and threads, signals, ptrace,
everything that changes a file, mounts, namespaces, keys, io_uring, memory files and SysV objects.

Source of the numbers: Linux `asm/unistd_64.h` and `asm-generic/unistd.h`; filter layout from
`linux/seccomp.h` and `linux/filter.h`.
"""

import ctypes
import struct

from evaluation.sandbox.confine_libc import call, machine

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
EPERM, ENOTTY, ENOSYS = 1, 25, 38
WRITING_FLAGS = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_DUPFD_CLOEXEC: none owns or signals.
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 1030)

# BPF: load a word of the call's data, compare, go on further down, return.
LOAD, JUMP, JUMP_EQ, JUMP_GE, JUMP_SET, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # byte offsets in struct seccomp_data (little-endian)
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X32_CALLS = 0x40000000

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Reading and writing of open files, memory, own signal handlers, timers, clocks, polling, pipes,
# who and where am I, listing and looking at files, leaving.
ALLOWED = {
    "x86_64": (
        *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 22, 23, 24, 25, 28),
        *(32, 33, 34, 35, 36, 37, 38, 39, 60, 61, 63, 78, 79, 80, 81, 89, 95, 96, 97, 98, 99),
        *(100, 102, 104, 107, 108, 110, 111, 115, 118, 120, 121, 124, 127, 128, 130, 131, 137),
        *(138, 140, 143, 145, 146, 147, 158, 186, 201, 202, 204, 213, 217, 218, 219, 221, 228),
        *(229, 230, 231, 232, 233, 247, 262, 267, 269, 270, 271, 273, 281, 290, 291, 292, 293),
        *(309, 318, 324, 332, 334, 439),
    ),
    "aarch64": (
        *(17, 19, 20, 21, 22, 23, 24, 43, 44, 48, 49, 50, 57, 59, 61, 62, 63, 64, 65, 66, 67, 72),
        *(73, 78, 79, 80, 93, 94, 95, 96, 98, 99, 101, 102, 103, 113, 114, 115, 120, 121, 123),
        *(124, 125, 126, 128, 132, 133, 134, 135, 136, 137, 139, 141, 148, 150, 153, 155, 156),
        *(158, 160, 163, 165, 166, 168, 169, 172, 173, 174, 175, 176, 177, 178, 179, 214, 215),
        *(216, 222, 223, 226, 233, 260, 278, 283, 291, 293, 439),
    ),
}
# Calls that open files, with the argument that holds their flags: allowed for reading.
OPENING = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}
FCNTL = {"x86_64": 72, "aarch64": 25}
IOCTL = {"x86_64": 16, "aarch64": 29}
# A pair of stream sockets, which reach no third; what is sent on them names no address.
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
SENDTO = {"x86_64": 44, "aarch64": 206}
RECVFROM = {"x86_64": 45, "aarch64": 207}
AF_UNIX, SOCK_STREAM, SOCK_FLAGS = 1, 1, (0, 0o4000, 0o2000000, 0o2004000)
FIONBIO = 0x5421  # the one ioctl: reads of this descriptor wait, or do not
PRLIMIT64 = {"x86_64": 302, "aarch64": 261}
CLONE3, OPENAT2 = 435, 437  # their flags lie behind a pointer; libc falls back to the older calls


def build_filter() -> bytes | None:
    """The filter as BPF instructions of 8 bytes; None on machines without a table."""
    here = machine()
    if here is None:
        return None
    code = [
        (LOAD, 0, 0, ARCH),
        (JUMP_EQ, 1, 0, AUDIT_ARCH[here]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_GE, 0, 1, X32_CALLS),
        (RETURN, 0, 0, ERRNO | EPERM),
    ]
    for number in (*ALLOWED[here], RECVFROM[here]):
        code += [(JUMP_EQ, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for number, answer in ((CLONE3, ENOSYS), (OPENAT2, ENOSYS)):
        code += [(JUMP_EQ, 0, 1, number), (RETURN, 0, 0, ERRNO | answer)]
    code += _when(IOCTL[here], [(1, [(JUMP_EQ, 0, 1, FIONBIO)])], ENOTTY)
    stream = [(JUMP_EQ, 0, 1, SOCK_STREAM | flags) for flags in SOCK_FLAGS]
    code += _when(SOCKETPAIR[here], [(0, [(JUMP_EQ, 0, 1, AF_UNIX)]), (1, stream)])
    code += _when(SENDTO[here], [(4, [(JUMP_EQ, 0, 1, 0)]), (4.5, [(JUMP_EQ, 0, 1, 0)])])
    for number, argument in OPENING[here].items():
        code += _when(number, [(argument, [(JUMP_SET, 1, 0, WRITING_FLAGS)])])
    commands = [(JUMP_EQ, 0, 1, command) for command in FCNTL_COMMANDS]
    code += _when(FCNTL[here], [(1, commands)])
    code += _when(PRLIMIT64[here], [(0, [(JUMP_EQ, 0, 1, 0)])])  # of this process alone
    code.append((RETURN, 0, 0, ERRNO | EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _when(
    number: int, conditions: list[tuple[float, list[tuple]]], otherwise: int = EPERM
) -> list[tuple]:
    """Instructions that allow the call where every condition holds, else refuse it.

    A condition is an argument's place (a half more: its high word) and tests of it, of which one
    must hold. A test jumps over one instruction where it does not hold: over the way on.
    """
    refuse = (RETURN, 0, 0, ERRNO | otherwise)
    body: list[tuple] = [(RETURN, 0, 0, ALLOW)]
    for argument, tests in reversed(conditions):
        ways = []
        for place, test in enumerate(tests):
            rest = 2 * (len(tests) - place - 1) + 1  # the other tests, and their refusal
            ways += [test, (JUMP, 0, 0, rest)]
        body = [(LOAD, 0, 0, ARGUMENTS + int(8 * argument)), *ways, refuse, *body]
    return [(JUMP_EQ, 0, len(body), number), *body]


def install_filter(code: bytes) -> None:
    """Put this process under the filter for good; needs no-new-privileges set before.

    Raises: OSError where the kernel has no such filters.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
