"""The table of runs that train: what it reads, what it shows, and what is printed without it."""

import json
import os

import pytest
from rich.console import Console

import distill.sweeps.live_table
from distill.run.progress import console
from distill.sweeps.live_table import LiveTable
from distill.sweeps.result import RunOutcome
from distill.sweeps.run_size import RunSize
from tests.support.distill_fakes import small_recipe


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The table of two runs of ten steps and 1000 tokens, and its clock."""
    clock = Clock()
    monkeypatch.setattr(distill.sweeps.live_table, "time", clock)
    sizes = [
        RunSize(
            recipe=small_recipe(name=name),
            num_parameters=1,
            num_epochs=2,
            num_steps=10,
            steps_per_epoch=5,
            num_tokens=1000,
        )
        for name in ("a", "b")
    ]
    (tmp_path / "a").mkdir()
    return LiveTable(sizes, tmp_path), clock, tmp_path / "a/metrics.jsonl"


def log(path, *lines):
    with path.open("a") as file:
        file.write(
            "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        )


def step(number, epoch, **more):
    return {"step": number, "epoch": epoch, "train_loss": 9 / number, "tokens_per_s": 50.0, **more}


def shown(table):
    wide = Console(width=120, height=40)
    with wide.capture() as capture:
        wide.print(table.render())
    return capture.get()


def test_a_table_follows_the_metrics_of_each_run(table):
    table, clock, metrics = table
    assert "2 waiting; - left" in shown(table)
    table.started("a", "GPU 0")
    log(metrics, step(1, 1))
    table.refresh()
    clock.now += 8
    log(metrics, step(2, 1), step(3, 1), '{"step": 4, "ep')
    table.refresh()
    text = shown(table)
    row = next(line.split() for line in text.splitlines() if " a " in line)
    assert row == ["a", "running", "1/2", "3/10", "3.000", "-", "50", "0:00:28"]
    assert "1 running, 1 waiting; 0:00:45 left" in text
    log(metrics, 'och": 1, "train_loss": 2.5, "tokens_per_s": 50.0}\n')
    yardsticks = {"val_kl": 1.25, "val_cross_entropy": 2.5, "val_top1": 0.25}
    log(metrics, {"step": 5, "epoch": 1, **yardsticks, "val_loss": 9.5})
    table.refresh()
    assert "4/10" in shown(table) and "1.250" in shown(table)
    table.ended(RunOutcome(name="a", out=metrics.parent, status="failed", error="no"))
    assert "failed" in shown(table) and " b " not in shown(table)


def test_a_run_that_goes_on_is_read_anew(table):
    table, _, metrics = table
    table.started("a", "GPU 0")
    log(metrics, step(6, 2), step(7, 2))
    table.refresh()
    replacement = metrics.with_suffix(".tmp")
    log(replacement, step(4, 1))
    os.replace(replacement, metrics)
    table.refresh()
    assert "4/10" in shown(table)


def test_without_a_terminal_there_is_a_line_for_each_start_epoch_and_end(table):
    table, _, metrics = table
    with console.capture() as capture, table:
        table.started("a", "GPU 0")
        log(metrics, step(1, 1))
        table.refresh()
        log(metrics, step(2, 2))
        table.refresh()
        table.ended(RunOutcome(name="a", out=metrics.parent, status="trained"))
    lines = capture.get().splitlines()
    assert lines[0] == "a: started (GPU 0), 10 steps"
    assert lines[1].startswith("a: epoch 1/2, step 2/10, loss 4.500, 50 tokens/s, ")
    assert lines[2:] == ["a: trained"]


def test_a_validation_within_an_epoch_does_not_end_it(table):
    table, _, metrics = table
    yardsticks = {"val_kl": 1.25, "val_cross_entropy": 2.5, "val_top1": 0.25, "val_loss": 9.5}
    with console.capture() as capture, table:
        table.started("a", "GPU 0")
        for line in (step(3, 1), {"step": 3, "epoch": 1, **yardsticks}, step(5, 1)):
            log(metrics, line)
            table.refresh()
    assert len(capture.get().splitlines()) == 1 and "1.250" in shown(table)
    with console.capture() as capture:
        log(metrics, {"step": 5, "epoch": 1, **yardsticks, "val_kl": 1.5})
        table.refresh()
    assert capture.get().startswith("a: epoch 1/2, step 5/10, loss 1.800, validation KL 1.500")
