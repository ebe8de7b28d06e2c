"""What changes from step to step: the loss's terms and the learning rate.

All of it follows from the recipe and the step's number.
"""

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from distill.loss.terms import LossTerms
from distill.settings.recipe import Recipe


def terms_at(recipe: Recipe, progress: float) -> LossTerms:
    """The loss's terms at a share of the run: 0 at its first step, 1 at its last one.

    Temperature and alpha go in a straight line to where the recipe lets them end.
    """

    def between(start: float, end: float | None) -> float:
        return start if end is None else start + progress * (end - start)

    return LossTerms(
        temperature=between(recipe.temperature, recipe.temperature_end),
        alpha=between(recipe.alpha, recipe.alpha_end),
        divergence=recipe.divergence,
    )


def lr_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
    """The learning rate over `num_steps` steps: warmed up from 0, then as the recipe says."""
    name = "constant_with_warmup" if recipe.lr_schedule == "constant" else recipe.lr_schedule
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=round(recipe.warmup_ratio * num_steps),
        num_training_steps=num_steps,
    )
