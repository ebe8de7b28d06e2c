"""Train all recipes of a file one after another from one open cache."""

import gc
from typing import Any

import torch
from accelerate import PartialState

from cache.errors import CacheError
from cache.reader import CacheReader
from distill.config import SweepConfig, TrainConfig
from distill.errors import DistillError
from distill.plots import plot_runs
from distill.progress import console
from distill.recipe import Recipe
from distill.recipe_files import load_recipes
from distill.result import FAILED, RESUMED, SKIPPED, TRAINED, RunOutcome, SweepResult
from distill.run_folder import FINISHED, METRICS_FILE, read_run, require_same_run
from distill.runlog import read_metrics
from distill.show import sweep_table
from distill.train import train


def sweep(config: SweepConfig, *, reader: CacheReader | None = None) -> SweepResult:
    """Train every recipe of a file; finished runs are skipped, unfinished ones gone on with.

    A run that fails does not keep the others from their turn: it is reported at the end, and
    a second sweep tries it again.

    Args:
        reader: an open cache to use instead of opening `config.cache`.

    Raises:
        DistillError: the file of recipes cannot be used, or has not the recipes asked for.
        CacheError: the cache is incomplete or damaged.
    """
    recipes = choose_recipes(load_recipes(config.recipes), config)
    if reader is None:
        with CacheReader(config.cache) as opened:
            return sweep(config, reader=opened)
    is_main = PartialState().is_main_process
    console.quiet = not is_main
    outcomes = []
    for place, recipe in enumerate(recipes, start=1):
        console.rule(f"{place}/{len(recipes)} {recipe.name}", align="left")
        outcomes.append(_run(recipe, config, reader))
        _release_memory()
    result = SweepResult(out=config.out, runs=tuple(outcomes))
    done = [run for run in result.runs if run.status != FAILED]
    if is_main and done:
        curves = {run.name: read_metrics(run.out / METRICS_FILE) for run in done}
        plot_runs(curves, config.out / "plots")
    console.print(sweep_table(result))
    for run in result.failed:
        console.print(f"{run.name} failed: {run.error}", style="red", markup=False, soft_wrap=True)
    return result


def choose_recipes(recipes: list[Recipe], config: SweepConfig) -> list[Recipe]:
    """The recipes named in `config.only`, in the order of the file; all if none is named.

    Raises:
        DistillError: a name is not in the file.
    """
    known = [recipe.name for recipe in recipes]
    unknown = [name for name in config.only if name not in known]
    if unknown:
        raise DistillError(
            f"no recipe named {', '.join(unknown)} in {config.recipes}; known are: "
            f"{', '.join(known)}. Use one of these names, or name another file of recipes."
        )
    return [recipe for recipe in recipes if not config.only or recipe.name in config.only]


def _run(recipe: Recipe, config: SweepConfig, reader: CacheReader) -> RunOutcome:
    train_config = TrainConfig(
        cache=config.cache,
        recipe=recipe,
        out=config.out / recipe.name,
        resume=True,
        wandb=config.wandb,
        wandb_project=config.wandb_project,
    )
    place: dict[str, Any] = {"name": recipe.name, "out": train_config.out}
    try:
        run = read_run(train_config.out)
        if run is not None and run["status"] == FINISHED:
            require_same_run(run, train_config, reader)
            console.print(f"{train_config.out} holds a finished run: skipped", soft_wrap=True)
            return RunOutcome(**place, status=SKIPPED, seconds=run["seconds"], losses=run["losses"])
        result = train(train_config, reader=reader)
    except Exception as error:  # one run's failure, of whatever kind, is not the sweep's
        kind = "" if isinstance(error, (DistillError, CacheError)) else f"{type(error).__name__}: "
        console.print(f"failed: {kind}{error}", style="red", markup=False, soft_wrap=True)
        return RunOutcome(**place, status=FAILED, error=f"{kind}{error}")
    return RunOutcome(
        **place,
        status=TRAINED if result.resumed_from_step is None else RESUMED,
        seconds=result.seconds,
        losses=result.losses,
    )


def _release_memory() -> None:
    """Give a finished student's memory back before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
