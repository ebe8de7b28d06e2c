"""The optimizer of a student: AdamW, and which of its parameters decay."""

import importlib
from collections.abc import Iterable
from typing import Any

import torch

from distill.errors import DistillError
from distill.settings.recipe import Recipe


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], recipe: Recipe, *, scaled: bool
) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters that learn.

    Args:
        parameters: of the student; frozen ones are passed over.
        scaled: whether a loss scaler works on the gradients.

    Raises:
        DistillError: the recipe asks for a library that is not installed.
    """
    groups = _groups([p for p in parameters if p.requires_grad], recipe)
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw8bit":
        return _bitsandbytes(recipe).optim.AdamW8bit(groups, **options)
    # With a loss scaler a fused step skips itself, unseen by those who count skipped steps.
    return torch.optim.AdamW(groups, **options, fused=None if scaled else True)


def _groups(parameters: list[torch.nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """All of them, or those of two dimensions and more, embeddings included, before the rest,
    which does not decay: biases and what scales a norm.

    Source: the second way is that of nanoGPT (Karpathy 2022), `configure_optimizers`.
    """
    if recipe.decay == "all":
        return [{"params": parameters}]
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _bitsandbytes(recipe: Recipe) -> Any:
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise DistillError(
            f"recipe {recipe.name}: optimizer is adamw8bit, but bitsandbytes cannot be imported "
            f"({error}). pip install bitsandbytes, or take optimizer: adamw."
        ) from error
