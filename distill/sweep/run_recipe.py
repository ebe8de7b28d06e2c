"""One recipe of a sweep: passed over if it has finished, gone on with, or trained."""

import gc
from typing import Any

import torch

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.run.progress import console
from distill.run.run_folder import FINISHED, read_run, require_same_run
from distill.run.train import train
from distill.settings.config import SweepConfig, TrainConfig
from distill.settings.recipe import Recipe
from distill.sweep.result import FAILED, RESUMED, SKIPPED, TRAINED, RunOutcome


def run_recipe(recipe: Recipe, config: SweepConfig, reader: CacheReader) -> RunOutcome:
    """Train one recipe of a sweep, unless it has finished; a failure is an outcome too."""
    earlier = finished_before(recipe, config, reader)
    if earlier is not None:
        words = earlier.error or f"{earlier.out} holds a finished run: skipped"
        console.print(words, markup=False, soft_wrap=True)
        return earlier
    train_config = _train_config(recipe, config)
    try:
        result = train(train_config, reader=reader)
    except Exception as error:  # one run's failure, of whatever kind, is not the sweep's
        console.print(f"failed: {_words(error)}", style="red", markup=False, soft_wrap=True)
        return _failed(train_config, error)
    finally:
        _release_memory()
    return RunOutcome(
        name=recipe.name,
        out=train_config.out,
        status=TRAINED if result.resumed_from_step is None else RESUMED,
        seconds=result.seconds,
        losses=result.losses,
    )


def finished_before(recipe: Recipe, config: SweepConfig, reader: CacheReader) -> RunOutcome | None:
    """The outcome of a run that has finished, or whose directory holds another run; else None."""
    train_config = _train_config(recipe, config)
    place: dict[str, Any] = {"name": recipe.name, "out": train_config.out}
    try:
        run = read_run(train_config.out)
        if run is None or run["status"] != FINISHED:
            return None
        require_same_run(run, train_config, reader)
    except DistillError as error:
        return _failed(train_config, error)
    return RunOutcome(**place, status=SKIPPED, seconds=run["seconds"], losses=run["losses"])


def _train_config(recipe: Recipe, config: SweepConfig) -> TrainConfig:
    return TrainConfig(
        cache=config.cache,
        recipe=recipe,
        out=config.out / recipe.name,
        resume=True,
        wandb=config.wandb,
        wandb_project=config.wandb_project,
        wandb_group=config.name,
    )


def _failed(train_config: TrainConfig, error: Exception) -> RunOutcome:
    return RunOutcome(
        name=train_config.recipe.name, out=train_config.out, status=FAILED, error=_words(error)
    )


def _words(error: Exception) -> str:
    """The message, with the kind in front where no sentence was prepared for the error."""
    kind = "" if isinstance(error, (DistillError, CacheError)) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def _release_memory() -> None:
    """Give a finished student's memory back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
