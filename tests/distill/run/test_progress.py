"""What is printed while a student trains and when it has, where nobody looks at a bar."""

from pathlib import Path

import pytest

import cache.machine.progress
from distill.run.progress import TrainProgress, console
from distill.run.result import TrainResult
from tests.support.clock import Clock
from tests.support.command_line import run
from tests.support.distill_fakes import small_recipe


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(100.0)
    monkeypatch.setattr(cache.machine.progress, "time", clock)
    return clock


def printed(clock, *, shown, seconds=(2, 9, 2, 9)):
    with console.capture() as capture:
        shape = {"num_epochs": 3, "num_steps": 1_010, "first_step": 6}
        with TrainProgress("a", shown=shown, **shape) as progress:
            for passed in seconds:
                clock.now += passed
                progress.step(epoch=1, loss=4.5, tokens_per_s=1234.5)
    return [
        line for line in capture.get().splitlines() if line
    ]  # older rich ends with an empty one


def test_a_step_is_told_now_and_then(clock):
    assert printed(clock, shown=True) == [
        "step 8/1,010, epoch 1/3, loss 4.500, 1,234 tokens/s, 1:31:51 left",
        "step 10/1,010, epoch 1/3, loss 4.500, 1,234 tokens/s, 1:31:40 left",
    ]


def test_a_validation_is_told_and_its_time_is_no_step_s(clock):
    """Half a minute a batch of validation, then ten seconds a step."""
    with console.capture() as capture:
        with TrainProgress("a", num_epochs=1, num_steps=5, first_step=0, shown=True) as progress:
            for batch in progress.validation("abc", 3):
                assert batch in "abc"
                clock.now += 30
            for _ in range(2):
                clock.now += 10
                progress.step(epoch=1, loss=4.5, tokens_per_s=1234.5)
    assert [line for line in capture.get().splitlines() if line] == [
        "validation 1/3, 0:01:00 left",
        "validation 2/3, 0:00:30 left",
        "validation 3/3, 0:00:00 left",
        "step 1/5, epoch 1/1, loss 4.500, 1,234 tokens/s, 0:00:40 left",
        "step 2/5, epoch 1/1, loss 4.500, 1,234 tokens/s, 0:00:30 left",
    ]


def test_only_one_of_several_processes_tells(clock):
    assert printed(clock, shown=False) == []


@pytest.mark.parametrize(("is_main", "tables"), [(True, 1), (False, 0)])
def test_one_of_the_processes_that_train_together_prints_the_table(
    is_main, tables, tiny_cache, monkeypatch
):
    result = TrainResult(
        best={}, stopped_early=False,
        out=Path("run"), recipe=small_recipe(), num_parameters=5, num_trained=5, num_steps=6,
        seconds=1.0,
        num_tokens=2, tokens_per_s=2.0, resumed_from_step=None,
        losses=dict.fromkeys(("train_loss", "train_distillation_loss", "train_ce_loss"), 1.0),
    )  # fmt: skip
    monkeypatch.setattr("distill.run.train.train", lambda config: result)
    monkeypatch.setattr("accelerate.PartialState.is_main_process", is_main)
    code, output = run("train", "--cache", tiny_cache, "--recipe", "model_44m_t2.0_a0.5")
    assert code == 0, output
    assert output.count("time in steps") == tables
