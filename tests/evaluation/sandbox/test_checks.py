import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.config import BenchmarkConfig, SandboxLimits, ScoreConfig
from evaluation.errors import EvaluationError
from evaluation.sandbox import checks, processes
from evaluation.sandbox.checks import Program, run_many, run_program, sandbox_level
from evaluation.sandbox.confine import missing_layers
from evaluation.sandbox.processes import COMMAND

LIMITS = SandboxLimits(timeout=10, memory_mb=256)
IMPATIENT = SandboxLimits(timeout=0.5, memory_mb=256)


def run(candidate, test="", limits=LIMITS, entry_points=("f",), **more):
    program = Program(candidate=candidate, test=test, entry_points=entry_points, **more)
    return run_program(program, limits)


def run_body(body, limits=LIMITS):
    """The verdict on statements that stand at the top of a program without functions."""
    return run(body, limits=limits, entry_points=())


def test_right_answer_passes():
    verdict = run("def f(x):\n    return x + 1\n", "assert f(1) == 2")
    assert verdict.passed and verdict.outcome == "passed" and verdict.seconds >= 0


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ("def f(): return 2", "wrong_answer"),
        ("def f(): return None", "wrong_answer"),
        ("def f(): assert False", "exception:AssertionError"),
        ("class Own(Exception): pass\ndef f(): raise Own", "exception:Own"),
        ("def f(): return b'\\xff'.decode()", "exception:UnicodeDecodeError"),
        ("f = (", "syntax_error"),
        ("f = '\0'", "syntax_error"),
        ("f = '\ud800'", "syntax_error"),
        ("f = '''", "syntax_error"),
        ("pass", "exception:NameError"),
        ("f = 1", "exception:TypeError"),
        ("def f(): return f()", "exception:RecursionError"),
        ("raise KeyboardInterrupt", "exception:KeyboardInterrupt"),
        ("f = input()", "exception:EOFError"),
        ("f = [0] * 10**9", "memory"),
        ("def f(): return [0] * 10**9", "memory"),
        ("import ctypes\ndef f(): ctypes.string_at(0)", "signal:SIGSEGV"),
        ("import sys; sys.exit(0)", "exit"),
        ("import sys\ndef f(): sys.exit(0)", "exit"),
        ("import os; os._exit(0)", "exit"),
        ("import os\ndef f(): os._exit(0)", "exit"),
        ("import os; os.closerange(0, 64)\nwhile True: pass", "exit"),
        ("def f(): return object()", "refused_value"),
        ("def f(): return lambda: 1", "refused_value"),
        ("import enum\ndef f(): return enum.Enum('E', 'A').A", "refused_value"),
        ("def f(): return 'x' * 10**7", "refused_value"),
        ("import socket; socket.socket()", "sandbox"),
        ("import os\ndef f(): os.fork()", "sandbox"),
        ("import threading\ndef f(): threading.Thread(target=print).start()", "sandbox"),
        ("def f(): raise PermissionError('mine')", "exception:PermissionError"),
    ],
)
def test_failures_are_told_apart(candidate, outcome):
    verdict = run(candidate, "assert f() == 1")
    assert not verdict.passed
    assert verdict.outcome == outcome


@pytest.mark.parametrize("candidate", ["while True: pass", "import time; time.sleep(60)"])
def test_endless_program_is_stopped(candidate):
    verdict = run(candidate, limits=IMPATIENT)
    assert (verdict.passed, verdict.outcome) == (False, "timeout")
    assert verdict.seconds >= IMPATIENT.timeout


def test_a_value_that_keeps_the_test_busy_for_ever_is_a_timeout():
    verdict = run("def f(): return 1", "while f() == 1: pass", IMPATIENT)
    assert verdict.outcome == "timeout"


def test_a_value_that_fills_the_judges_memory_is_refused():
    assert run("def f(): return 10**10", "[0] * f()").outcome == "refused_value"


def test_tests_see_builtin_exceptions_of_the_program():
    test = "try:\n    f(0)\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)\n"
    assert run("def f(x): return 1 / x", f"{test}else:\n    assert False").passed
    assert not run("def f(x): return 1", f"{test}else:\n    assert False").passed


def test_a_test_cannot_swallow_a_refusal():
    test = "try:\n    f()\nexcept BaseException:\n    pass\n"
    assert run("def f(): return object()", test).outcome == "refused_value"


@pytest.mark.parametrize(
    "candidate",
    [
        "import asyncio\nasync def g():\n    await asyncio.sleep(0.001)\n    return 1\n"
        "def f(): return asyncio.run(g())",
        "import socket\ndef f():\n    a, b = socket.socketpair()\n    a.setblocking(False)\n"
        "    a.send(b'x')\n    return len(b.recv(9))",
        "def f():\n    print('\\ud83d')\n    return 1",
    ],
    ids=["asyncio", "socketpair", "surrogate"],
)
def test_what_a_computing_program_may_do(candidate):
    verdict = run(candidate, "assert f() == 1")
    assert verdict.passed, verdict


@pytest.mark.skipif(not Path("/usr/share/zoneinfo/UTC").is_file(), reason="no time zones here")
def test_time_zones_of_the_machine_are_there():
    verdict = run(
        "from zoneinfo import ZoneInfo\ndef f(): return str(ZoneInfo('UTC'))",
        "assert f() == 'UTC'",
    )
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    "call",
    [
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
        "socket.socketpair(socket.AF_INET)",
        "socket.socketpair()[0].sendto(b'x', '/tmp/other')",
        "socket.socketpair()[0].sendto(b'x', '\\0other')",
        "socket.socketpair()[0].sendmsg([b'x'])",
        "socket.socketpair()[0].recvmsg(1)",
        "socket.socketpair()[0].bind('\\0mine')",
        "socket.socketpair()[0].connect('\\0mine')",
        "socket.socketpair()[0].listen()",
    ],
)
def test_a_pair_of_sockets_reaches_no_other(call):
    assert run(f"import socket\ndef f(): {call}", "f()").outcome == "sandbox"


def test_no_ioctl_but_the_one_that_sets_blocking_works():
    body = "import fcntl, termios\ntry: fcntl.ioctl(0, termios.FIONREAD, b'0000')\n"
    assert run_body(body + "except OSError as error: assert error.errno == 25\nelse: 1 / 0").passed


def test_arguments_are_copies():
    verdict = run("def f(x): x.append(1); return x", "x = [0]\nassert f(x) == [0, 1] and x == [0]")
    assert verdict.passed, verdict


def test_keyword_arguments_and_rich_values_cross():
    verdict = run(
        "from collections import Counter\ndef f(*a, **k): return a, Counter(k['s'])",
        "assert f({1: (2,)}, s='aab') == (({1: (2,)},), {'a': 2, 'b': 1})",
    )
    assert verdict.passed, verdict


def test_an_exception_of_the_prompt_is_that_of_the_test():
    bad = "class Bad(ValueError): pass\n"
    test = (
        "try:\n    f()\n    raise TypeError\nexcept Bad as error:\n    assert str(error) == 'why'\n"
    )
    assert run(f"{bad}def f(): raise Bad('why')", test, helpers=bad).passed
    verdict = run(f"{bad}def f(): raise Bad('why')", "f()", helpers=bad)
    assert (verdict.outcome, verdict.message) == ("exception:Bad", "why")
    pretends = "def f(): raise type('AssertionError', (Exception,), {})"
    assert run(pretends, "f()", helpers="AssertionError = 1").outcome == "exception:AssertionError"


def test_a_test_that_passes_a_function_says_so():
    verdict = run("def f(x): return x", "f(len)")
    assert verdict.outcome == "refused_value"
    assert verdict.message == "in the test: a value of type builtin_function_or_method cannot cross"


def test_helpers_are_those_of_the_prompt_whatever_the_program_defines():
    candidate = "def double(x): return 2 * x\ndef f(x): return double(x)\ndef double(x): return 0"
    verdict = run(candidate, "assert f(3) == double(3)", helpers="def double(x): return 2 * x")
    assert verdict.outcome == "wrong_answer"


TREE = "class Node:\n    def __init__(self, x): self.x, self.left = x, None\n"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [("return 1 + f(n.left) if n else 0", "passed"), ("return True", "wrong_answer")],
)
def test_objects_of_the_programs_own_types_stay_with_it_and_comparing_with_the_judge(body, outcome):
    verdict = run(
        f"{TREE}def f(n): {body}",
        "assert f(root) == 2\nassert not f(None) and f(root.left) == 1",
        helpers="root = Node(1)\nroot.left = Node(2)",
        in_child=True,
    )
    assert verdict.outcome == outcome


def test_environment_arguments_and_packages_are_empty(monkeypatch):
    monkeypatch.setenv("SECRET", "value")
    verdict = run(
        "import os, sys\ndef f(): return sorted(os.environ), sys.argv, sys.path\n",
        "environment, arguments, path = f()\n"
        "assert set(environment) <= {'LC_CTYPE', 'PYTHONHASHSEED', 'PYTHONUTF8'}, environment\n"
        "assert arguments == ['']\n"
        "assert not any('site-packages' in p or p.endswith('main') for p in path), path\n",
    )
    assert verdict.passed, verdict


def test_a_program_has_no_descriptor_but_its_channel_and_the_null_device():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    processes.stop_servers()
    with socket.socket() as one:
        taken = [os.dup(one.fileno()) for _ in range(1100)]  # the next numbers are high
    try:
        verdict = run(
            "import os\ndef is_open(n):\n    try: os.fstat(n)\n    except OSError: return False\n"
            "    return True\ndef f(): return [n for n in range(4096) if is_open(n)]\n",
            "assert f()[:3] == [0, 1, 2] and len(f()) == 4, f()",
        )
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert verdict.passed, verdict


def test_the_whole_standard_library_can_be_imported():
    verdict = run_body(
        "import collections, ctypes, dataclasses, decimal, difflib, hashlib, json, sqlite3, ssl\n"
        "import tokenize, typing, unittest, xml.etree.ElementTree, zlib\n"
        "@dataclasses.dataclass\nclass Point:\n    x: 'int'\n"
        "assert Point(1).x == 1 and hashlib.sha256(b'').digest()\n",
    )
    assert verdict.passed, verdict


def test_hash_order_is_the_same_in_every_run_and_server():
    order = "raise ValueError(list({'a', 'b', 'c', 'd', 'e', 'f'}))"
    first = run_body(order).message
    processes.stop_servers()
    assert first and run_body(order).message == run_body(order).message == first


def test_main_block_is_not_run():
    assert run_body("if __name__ == '__main__':\n    raise ValueError").passed


def test_verdicts_come_in_the_order_of_the_programs():
    programs = [
        Program(candidate=f"def f(): return {i}", test="assert f() % 2 == 0", entry_points=("f",))
        for i in range(8)
    ]
    seen = []
    verdicts = run_many(programs, LIMITS, 2, lambda: seen.append(1))
    assert [verdict.passed for verdict in verdicts] == [True, False] * 4
    assert len(seen) == 8


def test_interrupt_leaves_the_waiting_programs_unrun(monkeypatch):
    started = []

    def slow(program, limits):
        started.append(program)
        time.sleep(0.05)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "run_program", slow)
    with pytest.raises(KeyboardInterrupt):
        run_many([Program(candidate="", test="")] * 200, LIMITS, 2, interrupt)
    assert len(started) < 200


def test_servers_end_when_asked_and_start_again():
    run_body("")
    ended = processes.server("program").pid
    processes.stop_servers()
    with pytest.raises(ProcessLookupError):
        os.kill(ended, 0)
    assert run_body("").passed


def test_nothing_survives_a_killed_evaluation():
    code = (
        "from evaluation.config import BenchmarkConfig, SandboxLimits\n"
        "from evaluation.sandbox.checks import Program, run_program\n"
        "from evaluation.sandbox.processes import server\n"
        "print(server('program').pid, server('judge').pid, flush=True)\n"
        "endless = Program(candidate='while True: pass', test='')\n"
        "run_program(endless, SandboxLimits(timeout=600))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as evaluation:
        sessions = [int(word) for word in evaluation.stdout.readline().split()]
        wait_until(lambda: any(name == "R" for name in states(sessions)))  # the program runs
        evaluation.kill()
    wait_until(lambda: not states(sessions))


def states(sessions):
    """The states of all processes of these sessions, as in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions and fields[0] != "Z":
            found.append(fields[0])
    return found


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_level_here_is_full_and_names_the_layers():
    assert missing_layers(sandbox_level()) == []
    assert {"seccomp", "rlimits"} <= set(sandbox_level().split("+"))


@pytest.mark.parametrize(
    ("level", "missing"),
    [
        ("user+pid+net+ipc+mount+uid+landlock7+seccomp+rlimits", []),
        ("nocaps+landlock1+seccomp+rlimits", []),  # root in a container
        ("uid+mount+seccomp+rlimits", []),
        ("uid+seccomp+rlimits", ["landlock or a mount namespace"]),
        ("uid+audit+rlimits", ["seccomp", "landlock or a mount namespace"]),
    ],
)
def test_layers_that_give_the_same_guarantee_stand_for_each_other(level, missing):
    assert missing_layers(level) == missing


def test_weaker_level_is_refused_unless_allowed(monkeypatch):
    monkeypatch.setattr(checks, "_probe", lambda: "uid+audit+rlimits")
    with pytest.raises(EvaluationError, match="missing: seccomp, landlock or a.*--allow-weak"):
        run_body("")
    assert sandbox_level(allow_weak=True) == "uid+audit+rlimits"


def test_a_level_that_changes_between_programs_is_an_error(monkeypatch):
    monkeypatch.setattr(checks, "_probe", lambda: "nocaps+landlock1+seccomp+rlimits")
    with pytest.raises(EvaluationError, match="the sandbox had nocaps.*, and has .* now"):
        run_body("")


def test_a_process_that_does_not_start_is_an_error_not_a_verdict(monkeypatch):
    class Deaf:
        def fork(self, memory_bytes, cpu_seconds, channels):
            return server("program").fork(memory_bytes, cpu_seconds, [])

    server = processes.server
    monkeypatch.setattr(
        checks, "server", lambda role: Deaf() if role == "program" else server(role)
    )
    with pytest.raises(
        EvaluationError, match=r"did not start within 256 MiB \(exit .* program: 70"
    ):
        run_body("")


def test_an_interpreter_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(processes, "COMMAND", ("sh", "-c", "echo broken >&2; exit 1"))
    with pytest.raises(EvaluationError, match="interpreter .* did not start: broken"):
        processes.ForkServer("program")


def test_a_process_that_cannot_be_forked_is_an_error(monkeypatch):
    prelude = "import os; os.fork = lambda: os.open('', 0); "  # raises OSError
    command = [part.replace("from evaluation", f"{prelude}from evaluation") for part in COMMAND]
    monkeypatch.setattr(processes, "COMMAND", tuple(command))
    server = processes.ForkServer("judge")
    monkeypatch.setattr(checks, "server", lambda role: server)
    with pytest.raises(EvaluationError, match="did not start within .*program: 71, judge: 71"):
        checks._check(Program(candidate="", test=""), LIMITS, print)
    server.close()


def test_a_system_without_fork_is_an_error(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(EvaluationError, match="does not have. Use Linux or macOS"):
        processes.ForkServer("program")


def test_the_option_for_weak_levels_reaches_the_limits():
    assert BenchmarkConfig(teacher="t", allow_weak_sandbox=True).limits.allow_weak
    assert not BenchmarkConfig(teacher="t").limits.allow_weak
    assert ScoreConfig(samples=Path("s.jsonl"), allow_weak_sandbox=True).limits.allow_weak


def test_a_server_that_is_gone_is_an_error(monkeypatch):
    gone = processes.ForkServer("program")
    gone.close()
    with pytest.raises(EvaluationError, match="fork server is gone"):
        gone.fork(1 << 30, 1, [])


def test_a_program_too_large_is_not_run_and_stops_no_other():
    verdict = run_body("#" * (1 + checks.MAX_SOURCE_BYTES))
    assert (verdict.outcome, verdict.mode, verdict.passed) == ("too_large", "not_run", False)
    assert run_body("#" * checks.MAX_SOURCE_BYTES).passed


def test_a_test_too_large_to_send_is_an_error():
    with pytest.raises(EvaluationError, match="cannot be run: a message is larger than 8 MiB"):
        run("", "#" * (9 << 20), entry_points=())
