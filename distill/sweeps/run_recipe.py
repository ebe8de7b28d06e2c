"""One recipe of a sweep: passed over if it has finished, gone on with, or trained."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.run.progress import console
from distill.run.run_folder import FINISHED, is_finished, read_run
from distill.run.train import train
from distill.settings.config import SweepConfig, TrainConfig
from distill.settings.recipe import Recipe
from distill.sweeps.result import FAILED, RESUMED, SKIPPED, TRAINED, RunOutcome, reason


def run_recipe(recipe: Recipe, config: SweepConfig, reader: CacheReader) -> RunOutcome:
    """Train one recipe of a sweep, unless it has finished; a failure is an outcome too."""
    earlier = finished_before(recipe, config, reader)
    if earlier is not None:
        words = earlier.error or f"{earlier.out} holds a finished run: skipped"
        console.print(words, markup=False, soft_wrap=True)
        return earlier
    asked = train_config(recipe, config)
    try:
        result = train(asked, reader=reader)
    except Exception as error:  # one run's failure, of whatever kind, is not the sweep's
        console.print(f"failed: {reason(error)}", style="red", markup=False, soft_wrap=True)
        return _failed(asked, error)
    finally:
        _release_memory()
    return RunOutcome(
        name=recipe.name,
        out=asked.out,
        status=TRAINED if result.resumed_from_step is None else RESUMED,
        seconds=result.seconds,
        losses=result.losses,
    )


def finished_before(recipe: Recipe, config: SweepConfig, reader: CacheReader) -> RunOutcome | None:
    """The outcome of a run that has finished, or whose directory holds another run; else None."""
    asked = train_config(recipe, config)
    try:
        run = read_run(asked.out)
        if run is None or run["status"] != FINISHED or not is_finished(run, asked, reader):
            return None
    except DistillError as error:
        return _failed(asked, error)
    return replace(outcome_of(run, asked.out), status=SKIPPED)


def outcome_of(run: dict[str, Any], out: Path) -> RunOutcome:
    """What a run has come to that has just finished.

    Args:
        run: the content of its `run.json`.
        out: its directory.
    """
    return RunOutcome(
        name=run["recipe"]["name"],
        out=out,
        status=TRAINED if run["resumed_from_step"] is None else RESUMED,
        seconds=run["seconds"],
        losses=run["losses"],
    )


def train_config(recipe: Recipe, config: SweepConfig) -> TrainConfig:
    """What a sweep asks `train` for."""
    return TrainConfig(
        cache=config.cache,
        recipe=recipe,
        out=config.out / recipe.name,
        resume=True,
        wandb=config.wandb,
        wandb_project=config.wandb_project,
        wandb_group=config.name,
    )


def log_path(recipe: Recipe, config: SweepConfig) -> Path:
    """Where a student prints that trains in a process of its own."""
    return config.out / f"{recipe.name}.log"


def _failed(asked: TrainConfig, error: Exception) -> RunOutcome:
    return RunOutcome(name=asked.recipe.name, out=asked.out, status=FAILED, error=reason(error))


def _release_memory() -> None:
    """Give a finished student's memory back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
