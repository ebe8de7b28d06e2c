"""Several students at once: processes that end when they should, and a table of all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

import distill.sweep.board
from distill.errors import DistillError
from distill.run.progress import console
from distill.settings.config import SweepConfig
from distill.sweep.board import Board
from distill.sweep.local_jobs import Place, Worker, divide_machine
from distill.sweep.result import RunOutcome
from distill.sweep.run_size import RunSize
from distill.sweep.sweep import sweep
from distill.sweep.worker_process import config_from_json, config_to_json
from tests.support.builds import take_interrupts
from tests.support.distill_fakes import small_recipe
from tests.support.paths import ROOT

RECIPES = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, batch_size: 2, accumulate: 1, epochs: 1}
recipes: [{name: good}, {name: bad, precision: fp16}, {name: better, lr: 3e-3}]
"""
LONG = """
defaults: {student: 2x32x2, temperature: 2, alpha: 0.5, batch_size: 1, accumulate: 1, epochs: 999}
grid: {lr: [1e-3, 2e-3]}
"""


def config_in(folder, cache, text=RECIPES, **options):
    recipes = folder / "recipes.yaml"
    recipes.write_text(text)
    return SweepConfig(
        cache=cache, recipes=recipes, out=folder / "out", wandb="disabled", **options
    )


def test_students_trained_at_once_are_those_trained_in_turn(tmp_path, tiny_cache):
    config = config_in(tmp_path, tiny_cache, jobs=2)
    with console.capture() as capture:
        at_once = sweep(config)
    assert [run.status for run in at_once.runs] == ["trained", "failed", "trained"]
    assert "precision is fp16, but the device is cpu" in at_once.runs[1].error
    printed = capture.get()
    assert "3 runs, " in printed and "good: started (CPU threads: " in printed
    assert "better: epoch 1/1" in printed and "good: trained" in printed
    assert (config.out / "plots/val_loss.png").is_file()
    finished = sweep(replace(config, only=("good", "better")))
    assert [run.status for run in finished.runs] == ["skipped", "skipped"]
    assert "Traceback" not in (config.out / "worker-0.log").read_text()
    (tmp_path / "turn").mkdir()
    sweep(config_in(tmp_path / "turn", tiny_cache, only=("better",)))
    one, other = (tmp_path / name / "better/model.safetensors" for name in ("out", "turn/out"))
    assert one.read_bytes() == other.read_bytes()


def test_no_student_outlives_its_sweep_and_the_same_command_goes_on(tmp_path, tiny_cache):
    config = config_in(tmp_path, tiny_cache, LONG)
    run = config.out / "lr0.001"
    command = [sys.executable, "cli.py", "sweep", "--cache", tiny_cache, "--jobs", "2"]
    command += ["--recipes", config.recipes, "--out", config.out, "--wandb", "disabled"]
    with sweep_process([*command, "--only", run.name]) as parent:
        wait_for(lambda: list(run.glob("checkpoints/step-*[0-9]")))
        end(parent, signal.SIGKILL, num_students=1)
    before, epoch_before = inode(run), first_epoch(run)
    with sweep_process(command) as parent:
        wait_for(lambda: inode(run) != before and (config.out / "lr0.002/metrics.jsonl").exists())
        errors = end(parent, signal.SIGINT, num_students=2)
    assert parent.returncode == 130
    assert "To go on:\n  python cli.py sweep --cache" in errors
    assert first_epoch(run) == epoch_before


@contextmanager
def sweep_process(command):
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=take_interrupts,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def end(parent, fatal, *, num_students):
    """Send the signal; what was printed, when no student is left."""
    students = psutil.Process(parent.pid).children()
    assert len(students) == num_students
    parent.send_signal(fatal)
    _, errors = parent.communicate(timeout=60)
    wait_for(lambda: not any(student.is_running() for student in students))
    return errors


def first_epoch(run):
    """Its lines, in which even the speeds are those of that very epoch."""
    return (run / "metrics.jsonl").read_text().splitlines()[:24]


def inode(run):
    """Of its metrics: another one when a run has gone on."""
    return (run / "metrics.jsonl").stat().st_ino


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within two minutes")


def test_a_killed_process_is_a_failed_run(tmp_path, tiny_cache):
    config = config_in(tmp_path, tiny_cache)
    worker = Worker(config, Place(gpu=None, num_threads=1), tmp_path / "worker.log")
    worker.train(small_recipe())
    (tmp_path / "worker.log").write_text("loading\nepoch 1\n\n")
    worker.process.kill()
    outcome = worker.outcome()
    assert outcome.status == "failed"
    assert "ended by SIGKILL" in outcome.error and "fewer --jobs" in outcome.error
    assert outcome.error.endswith("epoch 1")
    assert worker.process is None


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


def test_a_configuration_passes_through_json(tmp_path):
    config = SweepConfig(
        cache=tmp_path, recipes=Path("a.yaml"), out=Path("x"), only=("a", "b"), jobs=3
    )
    assert config_from_json(config_to_json(config)) == config


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


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A board of two runs of ten steps and 1000 tokens, and its clock."""
    clock = Clock()
    monkeypatch.setattr(distill.sweep.board, "time", clock)
    sizes = [
        RunSize(recipe=small_recipe(name=name), num_parameters=1, num_steps=10, num_tokens=1000)
        for name in ("a", "b")
    ]
    (tmp_path / "a").mkdir()
    return Board(sizes, tmp_path), clock, tmp_path / "a/metrics.jsonl"


def log(path, *lines):
    with path.open("a") as file:
        file.write(
            "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        )


def step(number, epoch, **more):
    return {"step": number, "epoch": epoch, "train_loss": 9 / number, "tokens_per_s": 50.0, **more}


def shown(board):
    wide = Console(width=120, height=40)
    with wide.capture() as capture:
        wide.print(board.table())
    return capture.get()


def test_a_table_follows_the_metrics_of_each_run(board):
    board, clock, metrics = board
    assert "2 waiting; - left" in shown(board)
    board.started("a", "GPU 0")
    log(metrics, step(1, 1))
    board.refresh()
    clock.now += 8
    log(metrics, step(2, 1), step(3, 1), '{"step": 4, "ep')
    board.refresh()
    text = shown(board)
    row = next(line.split() for line in text.splitlines() if " a " in line)
    assert row == ["a", "running", "1/2", "3/10", "3.000", "-", "50", "0:00:28"]
    assert "1 running, 1 waiting; 0:00:45 left" in text
    log(metrics, 'och": 1, "train_loss": 2.5, "tokens_per_s": 50.0}\n')
    log(metrics, {"step": 5, "epoch": 1, "val_loss": 1.25})
    board.refresh()
    assert "4/10" in shown(board) and "1.250" in shown(board)
    board.ended(RunOutcome(name="a", out=metrics.parent, status="failed", error="no"))
    assert "failed" in shown(board) and " b " not in shown(board)


def test_a_run_that_goes_on_is_read_anew(board):
    board, _, metrics = board
    board.started("a", "GPU 0")
    log(metrics, step(6, 2), step(7, 2))
    board.refresh()
    replacement = metrics.with_suffix(".tmp")
    log(replacement, step(4, 1))
    os.replace(replacement, metrics)
    board.refresh()
    assert "4/10" in shown(board)


def test_without_a_terminal_there_is_a_line_for_each_start_epoch_and_end(board):
    board, _, metrics = board
    with console.capture() as capture, board:
        board.started("a", "GPU 0")
        log(metrics, step(1, 1))
        board.refresh()
        log(metrics, step(2, 2))
        board.refresh()
        board.ended(RunOutcome(name="a", out=metrics.parent, status="trained"))
    lines = capture.get().splitlines()
    assert lines[0] == "a: started (GPU 0), 10 steps"
    assert lines[1].startswith("a: epoch 1/2, step 2/10, loss 4.500, 50 tokens/s, ")
    assert lines[2:] == ["a: trained"]
