import subprocess
import sys
import time

import pytest

from evaluation import sandbox
from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.sandbox import Program, run_many, run_program, sandbox_level

LIMITS = SandboxLimits(timeout=10, memory_mb=256)
IMPATIENT = SandboxLimits(timeout=0.5, memory_mb=256)


def run(candidate, test="", limits=LIMITS):
    return run_program(Program(candidate=candidate, test=test), limits)


def test_right_answer_passes():
    verdict = run("def f(x):\n    return x + 1\n", "assert f(1) == 2")
    assert verdict.passed and verdict.outcome == "passed" and verdict.seconds >= 0


@pytest.mark.parametrize(
    ("candidate", "test", "outcome"),
    [
        ("x = 1", "assert x == 2", "wrong_answer"),
        ("def f():\n    assert False", "f()", "exception:AssertionError"),
        ("x = (", "", "syntax_error"),
        ("x = '\0'", "", "syntax_error"),
        ("x = '\ud800'", "", "syntax_error"),
        ("pass", "missing()", "exception:NameError"),
        ("def f(n): return f(n + 1)", "f(0)", "exception:RecursionError"),
        ("x = [0] * 10**9", "", "memory"),
        ("raise KeyboardInterrupt", "", "exception:KeyboardInterrupt"),
        ("input()", "", "exception:EOFError"),
        ("import ctypes; ctypes.string_at(0)", "", "signal:SIGSEGV"),
    ],
)
def test_failures_are_told_apart(candidate, test, outcome):
    verdict = run(candidate, test)
    assert not verdict.passed
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ("import sys; sys.exit(0)", "exception:SystemExit"),
        ("import os; os._exit(0)", "exit"),
        ("print('passed'); raise SystemExit", "exception:SystemExit"),
        # An open string would swallow the test if both were one text.
        ("x = '''", "syntax_error"),
        ("def check(f):\n    pass\nf = None", "wrong_answer"),
    ],
)
def test_leaving_before_the_test_is_no_success(candidate, outcome):
    verdict = run(candidate, "def check(f):\n    assert f is not None\ncheck(f)\n")
    assert not verdict.passed
    assert verdict.outcome == outcome


def test_success_reported_without_the_nonce_is_a_forgery():
    write = "import os\nfor i in range(3, 64):\n    try: os.write(i, b'passed 0123\\n')\n"
    verdict = run(f"{write}    except OSError: pass\nos._exit(0)")
    assert not verdict.passed
    assert verdict.outcome == "forged"


@pytest.mark.parametrize("candidate", ["while True: pass", "import time; time.sleep(60)"])
def test_endless_program_is_stopped(candidate):
    verdict = run(candidate, limits=IMPATIENT)
    assert not verdict.passed
    assert verdict.outcome == "timeout"
    assert verdict.seconds >= IMPATIENT.timeout


@pytest.mark.parametrize(
    "candidate",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "open('file', 'w')",
        "import os; os.rmdir('.')",
        "import shutil; shutil.rmtree('.')",
    ],
)
def test_the_machine_is_out_of_reach(candidate):
    assert run(candidate).outcome == "exception:PermissionError"


def test_files_outside_stay_as_they_are(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("text")
    for attempt in ("os.remove(p)", "open(p, 'a')", "os.truncate(p, 0)", "os.rename(p, p + 'x')"):
        assert not run(f"import os\np = {str(kept)!r}\n{attempt}").passed
    assert kept.read_text() == "text"


def test_limits_cannot_be_raised_again():
    raise_limit = "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    assert run(f"import resource; {raise_limit}").outcome.startswith("exception:")


def test_environment_folder_and_packages_are_empty(monkeypatch):
    monkeypatch.setenv("SECRET", "value")
    verdict = run(
        "import os, sys\n"
        "assert 'SECRET' not in os.environ and 'HOME' not in os.environ\n"
        "assert os.listdir('.') == []\n"
        "assert not any('site-packages' in p for p in sys.path)\n"
        "assert not any(p.endswith('evaluation') for p in sys.path)\n"
    )
    assert verdict.passed, verdict


def test_standard_library_threads_and_dataclasses_work():
    verdict = run(
        "import collections, dataclasses, heapq, itertools, json, math, re, threading, typing\n"
        "@dataclasses.dataclass\nclass Point:\n    x: 'int'\n"
        "thread = threading.Thread(target=print)\nthread.start()\nthread.join()\n",
        "assert Point(1).x == 1",
    )
    assert verdict.passed, verdict


def test_hash_order_is_the_same_in_every_run():
    order = "order = list({'a', 'b', 'c', 'd', 'e', 'f'})"
    first = run(f"{order}\nraise ValueError(order)").message
    assert first and all(run(f"{order}\nraise ValueError(order)").message == first for _ in "12")


def test_main_block_is_not_run():
    assert run("if __name__ == '__main__':\n    raise ValueError").passed


def test_verdicts_come_in_the_order_of_the_programs():
    programs = [Program(candidate=f"x = {i}", test="assert x % 2 == 0") for i in range(8)]
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

    monkeypatch.setattr(sandbox, "run_program", slow)
    with pytest.raises(KeyboardInterrupt):
        run_many([Program(candidate="", test="")] * 200, LIMITS, 2, interrupt)
    assert len(started) < 200


FALLBACK = """
import socket, subprocess, sys
sys.path.insert(0, {folder!r})
import confine
confine._filter_calls = lambda libc: False
print(confine.confine(1 << 30, 10))
for attempt in (socket.socket, lambda: subprocess.run(["true"]), lambda: open("file", "w")):
    try:
        attempt()
    except PermissionError as error:
        print("refused:", error)
"""


def test_without_a_filter_of_system_calls_an_audit_hook_refuses_the_same(tmp_path):
    code = FALLBACK.format(folder=str(sandbox.CHILD.parent))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    level, *refusals = done.stdout.splitlines()
    assert "audit" in level.split("+")
    assert len(refusals) == 3 and all("not allowed here" in line for line in refusals)
    assert list(tmp_path.iterdir()) == []


def test_level_names_the_layers():
    layers = sandbox_level().split("+")
    assert "seccomp" in layers or "audit" in layers


def test_interpreter_that_does_not_start_is_an_error_not_a_verdict(monkeypatch):
    monkeypatch.setattr(sandbox, "COMMAND", ("false",))
    with pytest.raises(EvaluationError, match="interpreter did not start within 256 MiB"):
        run("pass")
