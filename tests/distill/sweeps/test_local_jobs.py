"""Several students at once: what a process is told and tells, and that it ends when it should."""

import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

import cli
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.run.progress import console
from distill.run.train import train
from distill.settings.config import SweepConfig
from distill.settings.recipe_files import load_recipes
from distill.sweeps import local_jobs
from distill.sweeps.local_jobs import Place, divide_machine, run_jobs
from distill.sweeps.result import RunOutcome
from distill.sweeps.run_recipe import train_config
from distill.sweeps.sweep import sweep
from tests.support.builds import FORK, take_interrupts
from tests.support.distill_fakes import Interrupt, files_of_at_most, small_recipe
from tests.support.paths import ROOT

RECIPES = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, batch_size: 2, accumulate: 1, epochs: 1,
  sample_prompts: 0}
recipes: [{name: good}, {name: bad, precision: fp16}, {name: same}]
"""
"""The first is the third, by another name."""
LONG = """
defaults: {student: 2x32x2, temperature: 2, alpha: 0.5, batch_size: 1, accumulate: 1, epochs: 999,
  sample_prompts: 0}
grid: {lr: [1e-3, 2e-3]}
"""


def config_in(folder, cache, text=RECIPES, **options):
    recipes = folder / "recipes.yaml"
    recipes.write_text(text)
    return SweepConfig(
        cache=cache, recipes=recipes, out=folder / "out", wandb="disabled", **options
    )


@pytest.mark.slow  # benchmarks/sweep_jobs.py compares weights too
def test_students_trained_at_once_are_those_trained_in_turn(tmp_path, tiny_cache):
    config = config_in(tmp_path, tiny_cache)
    (in_turn,) = sweep(replace(config, only=("same",))).runs
    with console.capture() as capture:
        good, bad, same = sweep(replace(config, jobs=2)).runs
    assert [run.status for run in (good, bad, same)] == ["trained", "failed", "skipped"]
    assert bad.error.startswith("precision is fp16, but the device is cpu")
    printed = capture.get()
    assert "3 runs, " in printed and "good: started (CPU threads: " in printed
    assert "good: epoch 1/1" in printed and "good: trained" in printed
    assert (config.out / "plots/val_loss.png").is_file()
    assert "Traceback" not in (config.out / "bad.log").read_text()
    one, other = ((run.out / "model.safetensors").read_bytes() for run in (good, same))
    assert one == other and good.losses == in_turn.losses


@pytest.mark.slow
def test_interrupted_students_end_their_logs_and_the_same_command_goes_on(tmp_path, tiny_cache):
    config = config_in(tmp_path, tiny_cache, LONG)
    one, other = load_recipes(config.recipes)
    with CacheReader(tiny_cache) as reader, pytest.raises(KeyboardInterrupt):
        interrupted = Interrupt(reader, 60, KeyboardInterrupt())
        train(train_config(one, config), reader=interrupted)
    run = config.out / one.name
    before, epoch_before = inode(run), first_epoch(run)
    words = ["sweep", "--cache", tiny_cache, "--jobs", 2, "--recipes", config.recipes]
    words += ["--out", config.out, "--wandb", "disabled"]
    # A fork has imported already what it needs.
    parent = FORK.Process(target=run_command, args=(words, tmp_path / "errors"))
    parent.start()
    other_metrics = config.out / other.name / "metrics.jsonl"
    wait_for(parent, lambda: inode(run) != before and other_metrics.exists())
    end(parent, signal.SIGINT, num_students=2)
    assert parent.exitcode == 130
    assert "To resume:\n  python cli.py sweep --cache" in (tmp_path / "errors").read_text()
    assert first_epoch(run) == epoch_before
    for recipe in (one, other):
        log = (config.out / f"{recipe.name}.log").read_text()
        assert log.endswith("failed: it was interrupted\n") and "Traceback" not in log


def run_command(words, errors):
    take_interrupts()
    sys.argv = ["cli.py", *map(str, words)]
    with errors.open("w") as sys.stderr:
        cli.main(sys.argv[1:])


def end(parent, fatal, *, num_students):
    """Send the signal, and wait until no student is left."""
    students = psutil.Process(parent.pid).children()
    assert len(students) == num_students
    students[0].parent().send_signal(fatal)
    parent.join()
    psutil.wait_procs(students)


def first_epoch(run):
    """Its lines, in which even the speeds are those of that very epoch."""
    return (run / "metrics.jsonl").read_text().splitlines()[:24]


def inode(run):
    """Of its metrics: another one when a run has gone on."""
    return (run / "metrics.jsonl").stat().st_ino


def wait_for(parent, condition):
    while not condition():
        assert parent.is_alive()
        time.sleep(0.02)


PROGRAM = f"""
import os, sys, time, types
sys.path[0] = {str(ROOT)!r}
from pathlib import Path
from cache.errors import CacheError
from cache.machine.durable import write_json
from distill.errors import DistillError
from distill.sweeps.student_process import main
def train(config):
    name = config.recipe.name
    {{}}
sys.modules["distill.run.train"] = types.SimpleNamespace(train=train)
main()
"""
"""A student's process in which some lines stand for a training that takes seconds to import."""


class Table:
    """Remembers what has started, and is interrupted when there are certain files."""

    def __init__(self, *files):
        self.names, self.places, self.files = [], [], files

    def started(self, name, where):
        self.names.append(name)
        self.places.append(where)

    def ended(self, outcome): ...

    def refresh(self):
        if self.files and all(file.exists() for file in self.files):
            raise KeyboardInterrupt


@pytest.fixture
def students(tmp_path, monkeypatch):
    """Trains students called a, b, … in two places at a time, with some lines for `train`."""
    places = [Place(gpu=gpu, num_threads=3) for gpu in ("GPU-8f", "GPU-5c")]
    monkeypatch.setattr(local_jobs, "divide_machine", lambda num_jobs: places[:num_jobs])
    monkeypatch.setattr(local_jobs, "REFRESH_SECONDS", 0.01)
    config = config_in(tmp_path, tmp_path, jobs=2, wandb_project="students")
    config.out.mkdir()

    def run(lines, names="a", table=None):
        program = PROGRAM.format("\n    ".join(lines.strip().splitlines()))
        monkeypatch.setattr(local_jobs, "_PROGRAM", program)
        outcomes = run_jobs([small_recipe(name=name) for name in names], config, table or Table())
        return sorted(outcomes, key=lambda outcome: outcome.name)

    run.config = config
    return run


def test_a_process_is_told_what_to_train_and_where(students):
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    (outcome,) = students(f"raise ValueError((config, *map(os.environ.get, {names})))")
    asked = train_config(small_recipe(name="a"), students.config)
    assert outcome.error == f"ValueError: {(asked, '3', 'GPU-8f')}"
    assert asked.resume and (asked.wandb_project, asked.wandb_group) == ("students", "out")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('raise DistillError("It failed.\\nDo this:\\n\\n  so")', "It failed.\nDo this:\n\n  so"),
        ('raise CacheError("no cache")', "no cache"),
        ('raise MemoryError("no room")', "MemoryError: no room"),
        (
            'print("failed: so what\\nepoch 1\\n\\n", flush=True); os.kill(os.getpid(), 9)',
            "its process was ended by SIGKILL before it said why (most often a lack of memory: "
            "try fewer --jobs). The last line of {log}: epoch 1",
        ),
        (
            "os._exit(3)",
            "its process was ended with code 3 before it said why. The last line of {log}: nothing",
        ),
    ],
)
def test_a_failed_run_says_why(students, line, error):
    (outcome,) = students(line)
    log = students.config.out / "a.log"
    assert (outcome.name, outcome.status) == ("a", "failed")
    assert outcome.error == error.format(log=log)
    assert ("Traceback" in log.read_text()) == ("MemoryError" in line)


def test_a_log_that_cannot_be_written_is_no_lack_of_memory(students):
    with files_of_at_most(0):  # as on a full disk
        (outcome,) = students('raise DistillError("nobody hears this")')
    log = students.config.out / "a.log"
    assert outcome.error == f"{log} could not be written: File too large. It would have said why."


def test_a_finished_run_is_read_from_its_directory(students):
    first, second = students(
        """
run = {"recipe": {"name": name}, "cache": {"identity_hash": ""}, "wandb_id": "", "status": ""}
run |= {"seconds": 2.5, "losses": {"val_loss": 1.0}}
run["resumed_from_step"] = 3 if name == "b" else None
write_json(config.out / "run.json", run)
""",
        "ab",
    )
    assert (first.status, second.status) == ("trained", "resumed")
    assert second == RunOutcome(
        name="b",
        out=students.config.out / "b",
        status="resumed",
        seconds=2.5,
        losses={"val_loss": 1.0},
    )


def test_a_place_that_is_free_goes_to_the_next_recipe(students):
    table = Table()
    outcomes = students(
        """
while name == "a" and not (config.out.parent / "d.log").exists():
    time.sleep(0.01)
raise DistillError("no")
""",
        "abcd",
        table,
    )
    assert [outcome.name for outcome in outcomes] == table.names == list("abcd")
    assert table.places == ["GPU GPU-8f", "GPU GPU-5c", "GPU GPU-5c", "GPU GPU-5c"]


UNTIL_INTERRUPTED = """
try:
    Path(f"{config.out}.began").touch()
    while True:
        time.sleep(0.01)
finally:
    print("the logs are ended")
"""
BOTH = ("a.began", "b.began")


def test_no_student_outlives_its_sweep_which_is_killed(students):
    parent = FORK.Process(target=students, args=(UNTIL_INTERRUPTED, "ab"))
    parent.start()
    out = students.config.out
    wait_for(parent, lambda: all((out / name).exists() for name in BOTH))
    end(parent, signal.SIGKILL, num_students=2)
    for name in ("a.log", "b.log"):
        assert (out / name).read_text() == "the logs are ended\nfailed: it was interrupted\n"


def test_a_student_that_does_not_end_is_killed(students, monkeypatch):
    lines = f"{UNTIL_INTERRUPTED.rstrip()}; train(config)"
    monkeypatch.setattr(local_jobs, "STOP_SECONDS", 0.1)
    before = psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        students(lines, "ab", Table(*(students.config.out / name for name in BOTH)))
    assert psutil.Process().children() == before


def test_processes_take_turns_at_the_gpus_and_divide_the_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert divide_machine(3) == [Place(gpu=None, num_threads=2)] * 3
    assert divide_machine(9)[0].environment == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place.gpu for place in divide_machine(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f")
    assert [place.gpu for place in divide_machine(3)] == ["5", "GPU-8f", "5"]
    assert str(divide_machine(2)[1]) == "GPU GPU-8f"
    assert divide_machine(2)[1].environment["CUDA_VISIBLE_DEVICES"] == "GPU-8f"


def test_jobs_below_one_and_jobs_among_several_processes_are_refused(
    tmp_path, tiny_cache, monkeypatch
):
    with pytest.raises(DistillError, match="jobs is 0; it must be at least 1. Change --jobs"):
        config_in(tmp_path, tiny_cache, jobs=0)
    with pytest.raises(DistillError, match="Change --teacher-parameters"):
        config_in(tmp_path, tiny_cache, teacher_parameters=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillError, match="2 jobs on engine local were asked for in one of 2"):
        sweep(config_in(tmp_path, tiny_cache, jobs=2))
