"""Runs on labels alone: which recipe is whose baseline, and what a sweep says of the gain."""

import pytest
from rich.console import Console

from distill.errors import DistillError
from distill.run.progress import console
from distill.settings.config import SweepConfig
from distill.sweeps.baselines import baseline_of, gains, with_baselines
from distill.sweeps.result import RunOutcome
from distill.sweeps.sweep import plan_sweep, sweep
from distill.sweeps.tables import gains_table
from tests.support.distill_fakes import FakeReader, small_recipe

RECIPES = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.9, epochs: 1, lr: 1e-2, sample_prompts: 0}
recipes: [{name: warm}, {name: cold, temperature: 1}]
"""


def outcome(path, name, kl, cross_entropy, top1):
    losses = {"val_kl": kl, "val_cross_entropy": cross_entropy, "val_top1": top1}
    return RunOutcome(name=name, out=path, status="trained", losses=losses)


def test_a_baseline_has_no_teachers_term_and_all_else_the_same():
    recipe = small_recipe(
        alpha=0.9, alpha_end=0.1, temperature_end=1.5, divergence="reverse_kl", lr=3e-3, seed=4
    )
    baseline = recipe.labels_alone()
    assert baseline == small_recipe(
        name="small_labels-alone", alpha=0.0, temperature=1.0, lr=3e-3, seed=4
    )
    assert not baseline.learns_from_teacher and baseline.labels_alone() is baseline


def test_one_baseline_stands_for_all_that_differ_in_the_teachers_term_alone():
    warm, cold = small_recipe(name="warm"), small_recipe(name="cold", temperature=1.0, alpha=0.9)
    other = small_recipe(name="other", seed=1)
    names = [recipe.name for recipe in with_baselines([warm, cold, other])]
    assert names == ["warm", "cold", "other", "warm_labels-alone", "other_labels-alone"]
    assert with_baselines(with_baselines([warm, cold])) == with_baselines([warm, cold])
    there = small_recipe(name="ce", alpha=0.0, temperature=3.0)
    assert with_baselines([warm, there]) == [warm, there]
    assert baseline_of(warm, [warm, cold, there]) is there
    for changed in ({"seed": 1}, {"student": "1x16x2"}, {"epochs": 3}, {"lr": 2e-3}):
        assert baseline_of(small_recipe(**changed), [there]) is None


def test_a_baseline_does_not_take_the_name_of_another_recipe():
    taken = small_recipe(name="a_labels-alone", seed=5)
    with pytest.raises(DistillError, match="baseline of a would be a_labels-alone, but that is an"):
        with_baselines([small_recipe(name="a"), taken])


def test_a_gain_is_what_the_last_validation_is_better_by(tmp_path):
    recipes = [small_recipe(name="a"), small_recipe(name="b", alpha=0.0), small_recipe(name="c")]
    runs = [
        outcome(tmp_path, "a", 1.5, 3.0, 0.5),
        outcome(tmp_path, "b", 2.0, 2.5, 0.25),
        RunOutcome(name="c", out=tmp_path, status="failed", error="no"),
    ]
    (gain,) = gains(recipes, runs)
    assert (gain.name, gain.baseline) == ("a", "b")
    assert (gain.kl, gain.cross_entropy, gain.top1) == (0.5, -0.5, 0.25)
    assert gains(recipes, [runs[0], RunOutcome(name="b", out=tmp_path, status="failed")]) == []
    narrow = Console(width=80)
    with narrow.capture() as capture:
        narrow.print(gains_table([gain]))
    row = next(line.split() for line in capture.get().splitlines() if "+0.5000" in line)
    assert row == ["a", "+0.5000", "-0.5000", "+25.0", "b"]


def test_a_sweep_with_its_baseline_shows_what_the_teacher_brings(tmp_path):
    reader = FakeReader(tmp_path / "cache", num_train=8, num_validation=3)
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(RECIPES)
    config = SweepConfig(
        cache=reader.path, recipes=recipes, out=tmp_path / "out", wandb="disabled",
        with_baseline=True,
    )  # fmt: skip
    planned = [size.recipe.name for size in plan_sweep(config, reader)]
    assert planned == ["warm", "cold", "warm_labels-alone"]
    with console.capture() as capture:
        result = sweep(config, reader=reader)
    printed = " ".join(capture.get().split())
    losses = {run.name: run.losses for run in result.runs}
    alone = losses["warm_labels-alone"]
    assert alone["train_loss"] == alone["train_ce_loss"]
    for name in ("warm", "cold"):
        gain = alone["val_kl"] - losses[name]["val_kl"]
        assert f"{name} {gain:+.4f}" in printed
    assert "Gain over labels alone" in printed and "(labels alone)" in printed.replace("│", "")
    assert "On labels alone, for which no loop would ask a teacher: warm_labels-alone." in printed
    card = (result.out / "warm_labels-alone/README.md").read_text()
    assert "trained from random weights on labels alone: the tokens of the documents" in card
    assert "to imitate" not in card and "base_model" not in card
    assert "trained on outputs" not in card
