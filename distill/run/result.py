"""What a finished run, and a finished sweep, amount to."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import Accelerator

from cache.machine.precision import resolve_precision
from cache.reading.reader import CacheReader
from distill.batches.epochs import TRAIN
from distill.settings.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run."""

    out: Path
    """The Hugging Face folder."""
    recipe: Recipe
    """What was trained."""
    num_parameters: int
    """Weights of the student, the tied head counted once."""
    num_trained: int
    """Numbers that learned: those weights, those not frozen, or those of its adapters."""
    num_steps: int
    """Optimizer steps in all."""
    seconds: float
    """Time spent in optimizer steps."""
    num_tokens: int
    """Tokens trained on in all epochs, without padding."""
    tokens_per_s: float
    """Tokens trained on in a second, without padding."""
    losses: dict[str, float]
    """`train_*` means over the last epoch, and `val_*` after it if there is a validation split:
    losses, and `val_kl`, `val_cross_entropy` and `val_top1`, which compare any two runs."""
    best: dict[str, float]
    """`epoch`, `step` and `value` of the best validation, whose weights are in `best/`; empty
    without a validation split."""
    stopped_early: bool
    """Whether the recipe's `early_stopping` ended it."""
    resumed_from_step: int | None
    """Step of the checkpoint it went on from, or None if it ran in one go."""


def run_facts(result: TrainResult, accelerator: Accelerator, reader: CacheReader) -> dict[str, Any]:
    """What only the end of a run knows, for `run.json` and the model card."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "num_parameters": result.num_parameters,
        "num_trained": result.num_trained,
        "train_documents": reader.num_documents(TRAIN),
        "train_tokens": int(reader.document_lengths(TRAIN).sum()),
        "steps": result.num_steps,
        "seconds": round(result.seconds, 3),
        "trained_tokens": result.num_tokens,
        "tokens_per_s": round(result.tokens_per_s, 1),
        "losses": result.losses,
        "best": result.best,
        "stopped_early": result.stopped_early,
        "resumed_from_step": result.resumed_from_step,
        "device": {
            "name": name,
            "num_processes": accelerator.num_processes,
            "precision": resolve_precision(result.recipe.precision, device),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
    }
