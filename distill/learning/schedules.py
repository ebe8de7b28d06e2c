"""What changes from step to step: the loss's terms and the learning rate.

All of it follows from the recipe and the step's number.
"""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

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
    """The learning rate over `num_steps` steps: warmed up, then as the recipe says.

    The first of W warm-up steps has 1 / (W + 1) of the highest rate: at 0 it would learn nothing.
    """
    num_warmup = round(recipe.warmup_ratio * num_steps)

    def share(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        if recipe.lr_schedule == "constant":
            return 1.0
        left = max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))
        return left if recipe.lr_schedule == "linear" else (1 - math.cos(math.pi * left)) / 2

    return LambdaLR(optimizer, share)
