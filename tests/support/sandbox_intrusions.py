"""Programs that use up or reach out of what they are given: source and outcomes, as in cheats."""

from tests.support.sandbox_cheats import WRONG

INTRUSIONS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    # Using up time, memory, disk.
    "endless loop": ("def add(a, b):\n    while True: pass", "timeout"),
    "loop that swallows everything": (
        """
        def add(a, b):
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
        "timeout",
    ),
    "no signal stops it": (
        """
        import signal, time
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        signal.alarm(0); signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        def add(a, b):
            while True: time.sleep(1)
        """,
        "timeout",
    ),
    "hang in C: a power": ("def add(a, b): return pow(7, 10**8) % 3", "timeout"),
    "hang in C: a regular expression": (
        "import re\ndef add(a, b): return bool(re.match('(a+)+$', 'a' * 64 + 'b'))",
        "timeout",
    ),
    "memory": ("def add(a, b): return len(bytearray(1 << 40))", "memory"),
    "memory in small pieces": (
        "def add(a, b):\n    kept = []\n    while True: kept.append('x' * 10_000 + str(len(kept)))",
        "memory",
    ),
    "memory files": ("import os\ndef add(a, b): return os.memfd_create('x')", "sandbox"),
    "deep recursion": ("def add(a, b): return add(a, b)", "exception:RecursionError"),
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b):\n    return [add(a, b)]",
        ("signal:SIGSEGV", "memory", "timeout"),
    ),
    "deep value": (
        "def add(a, b):\n    x = 6\n    for _ in range(10**5): x = [x]\n    return x",
        "refused_value",
    ),
    "value that holds itself": (
        "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
        "refused_value",
    ),
    "huge value": ("def add(a, b): return 'x' * (64 << 20)", "refused_value"),
    "huge number": ("def add(a, b): return 1 << (1 << 26)", "refused_value"),
    "values that collide in a set": (
        "def add(a, b): return {i * (2**61 - 1) for i in range(4000)}",
        ("timeout", "wrong_answer"),
    ),
    "flood of output": (
        """
        import os, sys
        for _ in range(500):
            print("x" * 100_000); sys.stderr.write("x" * 100_000)
            os.write(1, b"x" * 100_000); os.write(2, b"x" * 100_000)
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "flood of descriptors": (
        "import os\nwhile True: os.dup(1)",
        "exception:OSError",
    ),
    "filling the disk": (
        "with open('filling', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))",
        "sandbox",
    ),
    "raised limits": (
        """
        import resource
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
            resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        """,
        ("exception:ValueError", "sandbox"),
    ),
    # Reaching out of the process.
    "write outside": ("open({target!r}, 'w')", "sandbox"),
    "write to a file that is there": ("open({kept!r}, 'a')", "sandbox"),
    "write through a symbolic link": (
        "import os; os.symlink({kept!r}, 'link'); open('link', 'w')",
        "sandbox",
    ),
    "removal of files": ("import os; os.unlink({kept!r})", "sandbox"),
    "removal of the tree": ("import shutil; shutil.rmtree('/')", "sandbox"),
    "change of rights": ("import os; os.chmod({kept!r}, 0)", "sandbox"),
    "named pipe": ("import os; os.mkfifo({target!r})", "sandbox"),
    "shared memory": (
        "from multiprocessing import shared_memory as s; s.SharedMemory('left', True, 64)",
        "sandbox",
    ),
    "fork bomb": (
        "import os\nfor _ in range(100):\n    try: os.fork()\n    except BlockingIOError: pass",
        "sandbox",
    ),
    "daemon": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
        """,
        "sandbox",
    ),
    "threads": (
        """
        import threading, time
        for _ in range(1000): threading.Thread(target=time.sleep, args=(60,)).start()
        """,
        "sandbox",
    ),
    "programs": ("import os; os.execv('/bin/true', ['true'])", "sandbox"),
    "subprocess": ("import subprocess; subprocess.run(['true'])", "sandbox"),
    "kill of the parent": ("import os; os.kill(os.getppid(), 9)", "sandbox"),
    "kill of everybody": ("import os; os.kill(-1, 9)", "sandbox"),
    "signals by descriptor": (
        "import fcntl; fcntl.fcntl(3, fcntl.F_SETOWN, 1)\n" + WRONG,
        "sandbox",
    ),
    "network": (
        "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
        ("sandbox", "exception:gaierror"),
    ),
    "Unix socket": (
        "import socket; socket.socket(socket.AF_UNIX).bind({target!r})",
        "sandbox",
    ),
    "abstract socket": (
        "import socket; socket.socket(socket.AF_UNIX).bind(chr(0) + 'meeting')",
        "sandbox",
    ),
    "pair of datagram sockets": (
        "import socket; socket.socketpair(type=socket.SOCK_DGRAM)",
        "sandbox",
    ),
    "system calls by number": (
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        parent = os.getppid()
        x86 = os.uname().machine == "x86_64"
        # ptrace attach, process_vm_readv, unshare, setuid, mount, keyctl, bpf, perf_event_open,
        # userfaultfd, io_uring_setup, pidfd_open, pidfd_getfd, shmget, msgget, chroot
        numbers = (
            [101, 310, 272, 105, 165, 250, 321, 298, 323, 425, 434, 438, 29, 68, 161] if x86 else
            [117, 270, 97, 146, 40, 219, 280, 241, 282, 425, 434, 438, 194, 186, 51]
        )
        def add(a, b):
            for number in numbers:
                first = 16 if number in (101, 117) else 0x10000000 if number in (272, 97) else 0
                if libc.syscall(number, first, parent, 0, 0, 0, 0) != -1: raise Found(number)
                if ctypes.get_errno() not in (1, 38): raise Found(number, ctypes.get_errno())
            if libc.syscall(0x40000000 + 39) != -1: raise Found("x32")
            return 6
        """,
        "wrong_answer",
    ),
    "crash": ("import ctypes\ndef add(a, b): ctypes.string_at(0)", "signal:SIGSEGV"),
    "closed channel": (
        "import os\ndef add(a, b):\n    os.closerange(0, 64)\n    while True: pass",
        "exit",
    ),
}
