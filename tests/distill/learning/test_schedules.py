"""What moves during a run: temperature, alpha and learning rate, through resuming too."""

import json
import math

import pytest
import safetensors.torch
import torch

from cache.targets.format import TargetFormat
from distill.errors import DistillError
from distill.learning.schedules import lr_schedule, terms_at
from distill.run.logs import read_metrics
from distill.run.train import train
from distill.settings.recipe import DIVERGENCES
from tests.support.distill_fakes import FakeReader, config_for, small_recipe

MOVING = {
    "temperature_end": 1.0,
    "alpha_end": 1.0,
    "lr_schedule": "cosine",
    "warmup_ratio": 0.25,
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


def rates(num_steps=10, **recipe):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = lr_schedule(small_recipe(**recipe), optimizer, num_steps)
    found = []
    for _ in range(num_steps + 1):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate_of_the_default_never_moves():
    assert rates() == [1.0] * 11


def test_a_warm_up_rises_from_its_first_step_on_and_then_the_schedule_falls_to_zero():
    assert rates(warmup_ratio=0.2) == [1 / 3, 2 / 3] + [1.0] * 9
    linear = rates(lr_schedule="linear", warmup_ratio=0.2)
    assert linear == pytest.approx([1 / 3, 2 / 3, *(1 - i / 8 for i in range(9))])
    cosine = rates(lr_schedule="cosine")
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 10)) / 2 for i in range(11)])


def test_temperature_and_alpha_go_straight_to_their_ends():
    recipe = small_recipe(temperature=3.0, temperature_end=1.0, alpha=0.9)
    assert [terms_at(recipe, share).temperature for share in (0.0, 0.25, 1.0)] == [3.0, 2.5, 1.0]
    assert [terms_at(recipe, share).alpha for share in (0.0, 1.0)] == [0.9, 0.9]


def test_every_step_uses_its_own_alpha_and_learning_rate(reader, tmp_path):
    config = config_for(reader, tmp_path / "out", alpha_end=0.1, lr_schedule="linear", alpha=0.9)
    train(config, reader=reader)
    lines = read_metrics(config.out / "metrics.jsonl")
    trained = [line for line in lines if "train_loss" in line]
    last = len(trained) - 1
    for place, line in enumerate(trained):
        alpha = 0.9 + place / last * (0.1 - 0.9)
        mixed = alpha * line["train_distillation_loss"] + (1 - alpha) * line["train_ce_loss"]
        assert line["train_loss"] == pytest.approx(mixed, rel=1e-5)
        assert line["lr"] == pytest.approx(1e-3 * (1 - place / len(trained)))
    for line in lines:
        if "val_loss" in line:  # by the terms of the last step, in every epoch
            mixed = 0.1 * line["val_distillation_loss"] + 0.9 * line["val_ce_loss"]
            assert line["val_loss"] == pytest.approx(mixed, rel=1e-5)


def interrupt(reader, monkeypatch, reads):
    """Let `reader` be interrupted after so many reads."""
    read, left = reader.read, iter(range(reads))

    def interrupted(split, indices):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(split, indices)

    monkeypatch.setattr(reader, "read", interrupted)


def test_a_resumed_run_goes_on_with_its_schedules(reader, tmp_path, monkeypatch):
    whole = train(config_for(reader, tmp_path / "whole", **MOVING), reader=reader)
    with monkeypatch.context() as patch:
        interrupt(reader, patch, 20)
        with pytest.raises(KeyboardInterrupt):
            train(config_for(reader, tmp_path / "cut", **MOVING), reader=reader)
    cut = train(config_for(reader, tmp_path / "cut", resume=True, **MOVING), reader=reader)
    assert cut.resumed_from_step == 6
    expected, actual = (
        safetensors.torch.load_file(result.out / "model.safetensors") for result in (whole, cut)
    )
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    curves = [
        [line.get("lr") for line in read_metrics(result.out / "metrics.jsonl")]
        for result in (whole, cut)
    ]
    assert curves[0] == curves[1] and len(set(curves[0])) > 5


def test_a_run_from_before_these_fields_is_still_the_same_run(reader, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt(reader, patch, 20)
        with pytest.raises(KeyboardInterrupt):
            train(config_for(reader, out), reader=reader)
    run = json.loads((out / "run.json").read_text())
    for field in (*MOVING, "divergence"):
        del run["recipe"][field]
    (out / "run.json").write_text(json.dumps(run))
    with pytest.raises(
        DistillError, match="recipe.divergence was 'forward_kl' and is 'reverse_kl'"
    ):
        train(config_for(reader, out, resume=True, divergence="reverse_kl"), reader=reader)
    assert train(config_for(reader, out, resume=True), reader=reader).resumed_from_step == 6


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_learns_by_every_divergence(reader, tmp_path, divergence):
    recipe = {"divergence": divergence, "alpha": 1.0, "lr": 1e-2, "epochs": 4}
    config = config_for(reader, tmp_path / "out", **recipe)
    train(config, reader=reader)
    lines = read_metrics(config.out / "metrics.jsonl")
    found = [line["val_distillation_loss"] for line in lines if "val_loss" in line]
    assert found[-1] < 0.97 * found[0]


def test_a_divergence_that_the_cache_cannot_serve_is_refused_before_anything_is_written(tmp_path):
    reader = FakeReader(tmp_path / "cache", targets=TargetFormat(top_k=8, tail="renormalize"))
    with pytest.raises(DistillError, match="divergence is reverse_kl, but the cache's tail is"):
        train(config_for(reader, tmp_path / "out", divergence="reverse_kl"), reader=reader)
    assert not (tmp_path / "out").exists()
