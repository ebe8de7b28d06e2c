"""How long a run is: fewer steps than its epochs have, and more epochs once it has finished."""

import shutil
from dataclasses import replace

import pytest

from distill.errors import DistillError
from distill.run.logs import read_metrics
from distill.run.train import train
from distill.settings.config import SweepConfig
from distill.sweeps.run_size import measure_run
from distill.sweeps.sweep import sweep
from tests.support.distill_fakes import (
    METRICS,
    FakeReader,
    Interrupt,
    checkpoints,
    config_for,
    small_recipe,
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(reader, tmp_path_factory):
    """A run of two epochs, of 6 steps each."""
    return train(config_for(reader, tmp_path_factory.mktemp("runs") / "whole"), reader=reader)


def lines(run):
    return [
        {name: value for name, value in line.items() if name != "tokens_per_s"}
        for line in read_metrics(run.out / METRICS)
    ]


def same_student(one, other):
    return (one.out / "model.safetensors").read_bytes() == (
        other.out / "model.safetensors"
    ).read_bytes()


def test_a_finished_run_goes_on_for_more_epochs_as_if_they_had_been_asked_for(
    reader, whole, tmp_path
):
    config = config_for(reader, tmp_path / "out", epochs=1)
    assert train(config, reader=reader).num_steps == 6
    longer = config_for(reader, config.out)
    with pytest.raises(DistillError, match="has finished after 6 steps of small.*--resume"):
        train(longer, reader=reader)
    extended = train(replace(longer, resume=True), reader=reader)
    assert (extended.resumed_from_step, extended.num_steps) == (6, 12)
    assert same_student(extended, whole) and lines(extended) == lines(whole)
    assert extended.losses == whole.losses
    assert checkpoints(config.out) == ["step-00000012"]


def test_a_run_ends_in_the_middle_of_an_epoch_and_goes_on_from_there(reader, whole, tmp_path):
    short = config_for(reader, tmp_path / "out", max_steps=8)
    result = train(short, reader=reader)
    assert result.num_steps == 8
    measured = [(line["step"], line["epoch"]) for line in lines(result) if "val_loss" in line]
    assert measured == [(0, 0), (6, 1), (8, 2)]
    last = [line for line in lines(result) if line["step"] in (7, 8) and "train_loss" in line]
    rows = [line["num_rows"] for line in last]
    mean = sum(line["train_loss"] * line["num_rows"] for line in last) / sum(rows)
    assert result.losses["train_loss"] == pytest.approx(mean)
    size = measure_run(short.recipe, reader)
    assert (size.num_epochs, size.num_steps) == (2, 8)
    assert result.tokens_per_s * result.seconds == pytest.approx(size.num_tokens)
    longer = config_for(reader, short.out)
    extended = train(replace(longer, resume=True), reader=reader)
    assert same_student(extended, whole)
    assert extended.losses == whole.losses


def test_a_run_longer_than_its_epochs_has_them_all(reader):
    assert measure_run(small_recipe(max_steps=99), reader).num_steps == 12
    with pytest.raises(DistillError, match="max_steps is 0, but must be at least 1"):
        small_recipe(max_steps=0)


@pytest.mark.parametrize(
    "recipe", [{"lr_schedule": "linear"}, {"warmup_ratio": 0.1}, {"alpha_end": 0.1}]
)
def test_a_schedule_that_ends_with_its_run_cannot_be_made_longer(reader, tmp_path, recipe):
    config = config_for(reader, tmp_path / "out", max_steps=1, epochs=1, **recipe)
    train(config, reader=reader)
    longer = config_for(reader, config.out, epochs=1, **recipe)
    with pytest.raises(
        DistillError, match="recipe.max_steps was 1 and is None. With a warm-up, or an lr_schedule"
    ):
        train(replace(longer, resume=True), reader=reader)


def test_a_run_is_not_made_shorter_and_not_longer_without_its_checkpoint(reader, whole, tmp_path):
    config = config_for(reader, shutil.copytree(whole.out, tmp_path / "out"), epochs=1)
    with pytest.raises(DistillError, match="finished after 12 steps, but the recipe asks for 6"):
        train(replace(config, resume=True), reader=reader)
    shutil.rmtree(config.out / "checkpoints")
    longer = config_for(reader, config.out, epochs=3)
    with pytest.raises(DistillError, match="after 12 steps without the checkpoint"):
        train(replace(longer, resume=True), reader=reader)


def test_an_unfinished_run_ends_where_it_is_told_to_now(reader, tmp_path):
    config = config_for(reader, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    too_short = config_for(reader, config.out, max_steps=5)
    with pytest.raises(DistillError, match="at step 6 already, but the recipe asks for 5"):
        train(replace(too_short, resume=True), reader=reader)
    short = config_for(reader, config.out, max_steps=6)
    assert train(replace(short, resume=True), reader=reader).num_steps == 6


def test_a_sweep_with_more_epochs_goes_on_with_its_finished_runs(reader, tmp_path):
    recipes = tmp_path / "recipes.yaml"
    text = (
        "defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, sample_prompts: 0}\n"
        "recipes: [{name: a, epochs: %d}]"
    )
    config = SweepConfig(cache=reader.path, recipes=recipes, out=tmp_path / "sweep")
    config = replace(config, wandb="disabled")
    statuses = []
    for epochs in (1, 1, 2, 1):
        recipes.write_text(text % epochs)
        statuses += [run.status for run in sweep(config, reader=reader).runs]
    assert statuses == ["trained", "skipped", "resumed", "failed"]
