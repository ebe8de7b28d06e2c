"""Sweeps: one cache, many recipes, and no failure that stops the others."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

import distill.sweeps.run_recipe
from distill.errors import DistillError
from distill.run.plots import TITLES
from distill.run.progress import console
from distill.run.train import train
from distill.settings.config import SweepConfig, TrainConfig
from distill.settings.recipe_files import load_recipes
from distill.sweeps.result import RunOutcome, SweepResult
from distill.sweeps.sweep import sweep
from distill.sweeps.tables import sweep_table
from tests.support.distill_fakes import FakeReader

RECIPES = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, epochs: 1, lr: 1e-3, batch_size: 4,
  sample_prompts: 0}
recipes:
  - {name: first}
  - {name: second, precision: fp16}
  - {name: third, alpha: 0.9, precision: bf16}
"""
"""The second asks for what no CPU can do."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


def config_in(folder, reader, **options):
    recipes = folder / "recipes.yaml"
    recipes.write_text(RECIPES)
    return SweepConfig(
        cache=reader.path, recipes=recipes, out=folder / "sweep", wandb="disabled", **options
    )


@pytest.fixture
def config(tmp_path, reader):
    return config_in(tmp_path, reader)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, reader):
    """A sweep, its result, and what it printed."""
    config = config_in(tmp_path_factory.mktemp("swept"), reader)
    with console.capture() as capture:
        result = sweep(config, reader=reader)
    return config, result, capture.get()


def statuses(result):
    return {run.name: run.status for run in result.runs}


def test_a_failed_run_is_reported_and_the_others_go_on(swept):
    config, result, printed = swept
    assert statuses(result) == {"first": "trained", "second": "failed", "third": "trained"}
    assert [run.name for run in result.failed] == ["second"]
    assert "precision is fp16, but the device is cpu" in result.failed[0].error
    assert "second failed: precision is fp16" in printed
    for name in ("first", "third"):
        assert json.loads((config.out / name / "run.json").read_text())["status"] == "finished"


def test_curves_of_all_runs_are_drawn_together(swept):
    config, *_ = swept
    assert {path.stem for path in (config.out / "plots").glob("*.png")} == set(TITLES)


def test_a_table_sums_the_runs_up(swept):
    _, result, _ = swept
    wide = Console(width=140)
    with wide.capture() as capture:
        wide.print(sweep_table(result))
    third = next(line for line in capture.get().splitlines() if "third" in line)
    losses = result.runs[2].losses
    yardsticks = [f"{losses['val_kl']:.4f}", f"{losses['val_cross_entropy']:.4f}"]
    assert third.split()[2:4] == yardsticks and f"{losses['val_top1']:.1%}" in third
    assert next(line for line in capture.get().splitlines() if "failed" in line).count("-") == 6
    assert "compare any two runs" in " ".join(capture.get().split())


def test_a_narrow_table_keeps_its_numbers_whole(tmp_path):
    names = ("train_loss", "val_loss", "val_kl", "val_cross_entropy")
    losses = {**dict.fromkeys(names, 11.6), "val_top1": 0.456}
    run = RunOutcome(
        name="small_acc4_lr0.0005_dropout0.0",
        out=tmp_path,
        status="trained",
        seconds=1234.5,
        losses=losses,
    )
    narrow = Console(width=80)
    with narrow.capture() as capture:
        narrow.print(sweep_table(SweepResult(out=tmp_path, runs=(run,))))
    row = next(line.split() for line in capture.get().splitlines() if "small_" in line)
    numbers = ["11.6000", "11.6000", "45.6%", "11.6000", "11.6000", "1,234"]
    assert row[1:] == ["trained", *numbers]


def test_a_finished_run_of_another_recipe_is_not_taken_for_this_one(swept, reader):
    config, *_ = swept
    config.recipes.write_text(RECIPES.replace("0.9", "0.8"))
    result = sweep(config, reader=reader)
    assert statuses(result) == {"first": "skipped", "second": "failed", "third": "failed"}
    assert "recipe.alpha was 0.9 and is 0.8" in result.runs[2].error


def test_finished_runs_are_skipped_and_unfinished_ones_gone_on_with(
    config, reader, monkeypatch, tmp_path
):
    first, _, third = load_recipes(config.recipes)
    train(
        TrainConfig(cache=reader.path, recipe=first, out=config.out / "first", wandb="disabled"),
        reader=reader,
    )
    before = (config.out / "first/run.json").read_bytes()
    unfinished = TrainConfig(
        cache=reader.path, recipe=third, out=config.out / "third", wandb="disabled"
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distill.run.train.plot_run", interrupt)
        train(unfinished, reader=reader)
    with console.capture() as capture:
        result = sweep(config, reader=reader)
    assert statuses(result) == {"first": "skipped", "second": "failed", "third": "resumed"}
    assert (config.out / "first/run.json").read_bytes() == before
    assert "first holds a finished run: skipped" in capture.get()
    assert result.runs[0].losses["val_loss"] > 0


def interrupt(*args):
    raise KeyboardInterrupt


def test_an_unexpected_error_is_named_by_its_kind(config, reader, monkeypatch):
    def fail(train_config, **options):
        raise RuntimeError("[out] of memory")

    monkeypatch.setattr(distill.sweeps.run_recipe, "train", fail)
    result = sweep(config, reader=reader)
    assert result.runs[0].error == "RuntimeError: [out] of memory"
    assert len(result.failed) == 3


def test_interrupting_a_sweep_ends_it(config, reader, monkeypatch):
    monkeypatch.setattr(distill.sweeps.run_recipe, "train", lambda *args, **options: interrupt())
    with pytest.raises(KeyboardInterrupt):
        sweep(config, reader=reader)


def test_only_the_recipes_asked_for_run(tmp_path, reader):
    chosen = config_in(tmp_path, reader, only=("second",))
    assert statuses(sweep(chosen, reader=reader)) == {"second": "failed"}
    unknown = config_in(tmp_path, reader, only=("x",))
    with pytest.raises(DistillError, match="no recipe named x in .*first, second, third"):
        sweep(unknown, reader=reader)


def test_the_runs_of_a_sweep_are_one_group_in_wandb(tmp_path, reader, monkeypatch):
    started = []

    class Run:
        def log(self, *args, **options): ...

        def finish(self, **options): ...

    def init(**options):
        started.append(options)
        return Run()

    monkeypatch.setattr("wandb.init", init)
    config = replace(config_in(tmp_path, reader), wandb="offline")
    sweep(config, reader=reader)
    assert [options["name"] for options in started] == ["first", "third"]
    assert {options["group"] for options in started} == {"sweep"}
