"""What the teacher brings: each run of a sweep beside the same one on labels alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from distill.errors import DistillError
from distill.settings.recipe import WITHOUT_TEACHER, Recipe
from distill.sweeps.result import RunOutcome


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better a run's last validation is than its baseline's; above 0 is better."""

    name: str
    """Of the run."""
    baseline: str
    """Of the same recipe without the teacher's term."""
    kl: float
    """Nats a token, of the KL from the teacher at T = 1."""
    cross_entropy: float
    """Nats a token."""
    top1: float
    """Share of tokens, of the agreement with the teacher."""


def with_baselines(recipes: Sequence[Recipe]) -> list[Recipe]:
    """These recipes and then, for each that learns from the teacher, the same one on labels alone,
    unless it is there.

    Recipes that differ in their teacher's term alone have one baseline, named after the first.

    Raises:
        DistillError: another recipe has a baseline's name.
    """
    found = list(recipes)
    for recipe in recipes:
        if recipe.learns_from_teacher and baseline_of(recipe, found) is None:
            baseline = recipe.labels_alone()
            if baseline.name in {other.name for other in found}:
                raise DistillError(
                    f"the baseline of {recipe.name} would be {baseline.name}, but that is another "
                    "recipe. Give one of them another name."
                )
            found.append(baseline)
    return found


def baseline_of(recipe: Recipe, recipes: Sequence[Recipe]) -> Recipe | None:
    """The first that is a recipe without its teacher's term and otherwise the same: the student,
    the seed, the epochs and all else."""
    alone = (other for other in recipes if not other.learns_from_teacher)
    return next((other for other in alone if _labels_part(other) == _labels_part(recipe)), None)


def _labels_part(recipe: Recipe) -> Recipe:
    return replace(recipe, name="any", **WITHOUT_TEACHER)


def gains(recipes: Sequence[Recipe], outcomes: Sequence[RunOutcome]) -> list[Gain]:
    """Of each run that learns from the teacher, where its baseline has finished and both were
    validated; in the order of the runs."""
    losses = {run.name: run.losses for run in outcomes if run.losses and "val_kl" in run.losses}
    finished = [recipe for recipe in recipes if recipe.name in losses]
    found = []
    for recipe in finished:
        baseline = baseline_of(recipe, finished) if recipe.learns_from_teacher else None
        if baseline is not None:
            own, alone = losses[recipe.name], losses[baseline.name]
            found.append(
                Gain(
                    name=recipe.name,
                    baseline=baseline.name,
                    kl=alone["val_kl"] - own["val_kl"],
                    cross_entropy=alone["val_cross_entropy"] - own["val_cross_entropy"],
                    top1=own["val_top1"] - alone["val_top1"],
                )
            )
    return found
