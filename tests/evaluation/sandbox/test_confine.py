"""What holds where layers are missing: the levels of containers, of plain users, of other systems.

Each is made here by a prelude in the fork server's interpreter, which takes the layers away.
"""

import os
import stat
import sys
from pathlib import Path

import pytest

from evaluation.config import SandboxLimits
from evaluation.sandbox import checks, processes
from evaluation.sandbox.checks import Program, run_program
from evaluation.sandbox.confine import missing_layers

LIMITS = SandboxLimits(timeout=10, memory_mb=256)
linux = pytest.mark.skipif(sys.platform != "linux", reason="layers of Linux")

CONTAINER = "import evaluation.sandbox.confine as c; c.enter_namespaces = list; "
NO_LANDLOCK = "import evaluation.sandbox.confine as c; c.create_ruleset = lambda: None; "
NO_FILTER = "import evaluation.sandbox.confine as c; c.build_filter = lambda: None; "
# In a user namespace in which this process has the number of a plain user.
PLAIN_USER = (
    "import os, evaluation.sandbox.confine as c; from evaluation.sandbox.confine_libc import call; "
    "user, group = os.geteuid(), os.getegid(); call('unshare', 0x10000000); "
    "[open('/proc/self/' + n, 'w').write(t) for n, t in (('setgroups', 'deny'), "
    "('uid_map', f'1000 {user} 1'), ('gid_map', f'1000 {group} 1'))]; "
)
ATTEMPTS = {
    "network": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "process": "import subprocess; subprocess.run(['true'])",
    "fork": "import os; os.fork()",
    "signal": "import os; os.kill(os.getppid(), 9)",
    "write": "open({target!r}, 'w')",
    "write in its folder": "open('file', 'w')",
    "removal": "import os; os.remove({kept!r})",
}
READING = "open({kept!r})"


@pytest.fixture
def level(monkeypatch):
    """Starts servers with a prelude; returns the level that results."""

    def start(prelude):
        processes.stop_servers()
        checks._probe.cache_clear()
        boot = processes.BOOT
        head, main = boot.split("from evaluation.sandbox.server", 1)
        changed = f"{head}{prelude}from evaluation.sandbox.server{main}"
        command = [changed if part == boot else part for part in processes.COMMAND]
        monkeypatch.setattr(processes, "COMMAND", tuple(command))
        return checks.sandbox_level(allow_weak=True)

    yield start
    processes.stop_servers()
    checks._probe.cache_clear()


def outcomes(tmp_path, attempts, limits=LIMITS):
    places = {"target": str(tmp_path / "target"), "kept": str(tmp_path / "kept")}
    Path(places["kept"]).write_text("as it was")
    found = {
        name: run_program(Program(candidate=attempt.format(**places), test=""), limits).outcome
        for name, attempt in attempts.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert Path(places["kept"]).read_text() == "as it was"
    return found


@linux
@pytest.mark.parametrize(
    ("prelude", "present", "absent"),
    [
        (CONTAINER, {"landlock", "seccomp", "rlimits"}, {"pid", "mount"}),
        (NO_LANDLOCK, {"pid", "net", "mount", "seccomp", "rlimits"}, {"landlock"}),
        (PLAIN_USER, {"user", "pid", "net", "mount", "uid", "landlock", "seccomp"}, set()),
    ],
    ids=["container", "no landlock", "plain user"],
)
def test_layers_that_remain_still_give_every_guarantee(tmp_path, level, prelude, present, absent):
    name = level(prelude)
    layers = {layer.rstrip("0123456789") for layer in name.split("+")}
    assert present <= layers and not absent & layers, name
    assert missing_layers(name) == []
    assert set(outcomes(tmp_path, ATTEMPTS).values()) == {"sandbox"}
    reading = outcomes(tmp_path, {"reading": READING})["reading"]
    assert reading in ("sandbox", "exception:FileNotFoundError")
    right = Program(
        candidate="import sqlite3, zoneinfo\ndef f(x): return x",
        test="assert f(1) == 1",
        entry_points=("f",),
    )
    assert run_program(right, LIMITS).passed  # what Python needs stays readable


def test_without_filter_a_hook_refuses_the_same_from_python_and_the_level_is_weak(tmp_path, level):
    name = level(CONTAINER + NO_LANDLOCK + NO_FILTER)
    assert "audit" in name and "seccomp" in missing_layers(name)
    weak = SandboxLimits(timeout=10, memory_mb=256, allow_weak=True)
    assert set(outcomes(tmp_path, ATTEMPTS, weak).values()) == {"sandbox"}


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="an interpreter that only root can reach")
def test_interpreter_in_a_closed_folder_stays_readable_without_being_root(tmp_path, level):
    folder = Path(os.path.realpath(os.__file__))
    closed = [p for p in folder.parents if not p.stat().st_mode & stat.S_IXOTH]
    if not closed:
        pytest.skip("every folder above this interpreter is open to all")
    assert "uid" in level("").split("+")
    program = Program(
        candidate="import os, xml.dom.minidom, wsgiref.util\ndef f(): return os.geteuid()",
        test="assert f() == 65534",
        entry_points=("f",),
    )
    assert run_program(program, LIMITS).passed
    assert "nocaps" in level(CONTAINER).split("+")  # root in name, without its powers
    assert run_program(program, LIMITS).outcome == "wrong_answer"
