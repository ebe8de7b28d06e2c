"""Train all recipes of a file from one cache: one after another, or several at a time."""

import os
from collections.abc import Sequence
from contextlib import nullcontext

from cache.machine.durable import write_json
from cache.machine.process import launch_number
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.learning.precision import process_state
from distill.run.logs import read_metrics
from distill.run.plots import plot_runs
from distill.run.progress import console
from distill.run.run_folder import METRICS_FILE
from distill.run.run_lock import directory_lock
from distill.settings.config import SweepConfig
from distill.settings.recipe import Recipe
from distill.settings.recipe_files import load_recipes
from distill.sweeps.baselines import gains, with_baselines
from distill.sweeps.ledger import open_ledger
from distill.sweeps.live_table import LiveTable
from distill.sweeps.local_jobs import run_jobs
from distill.sweeps.plots import plot_ledger
from distill.sweeps.ray_jobs import run_ray_jobs
from distill.sweeps.result import FAILED, RunOutcome, SweepResult
from distill.sweeps.run_recipe import finished_before, run_recipe
from distill.sweeps.run_size import RunSize, measure_run
from distill.sweeps.tables import (
    gains_table,
    ledger_table,
    ledger_words,
    size_words,
    sweep_table,
)

LEDGER_FILE = "ledger.json"


def sweep(config: SweepConfig, *, reader: CacheReader | None = None) -> SweepResult:
    """Train every recipe of a file; finished runs are skipped, unfinished ones gone on with.

    A run that fails does not keep the others from their turn: it is reported at the end, and
    a second sweep tries it again.

    Args:
        reader: an open cache to use instead of opening `config.cache`.

    Raises:
        DistillError: the file of recipes cannot be used, or has not the recipes asked for;
            several jobs were asked for in a process that is one of several itself; another sweep
            writes to the directory, or nobody can.
        CacheError: the cache is incomplete or damaged.
    """
    if reader is None:
        with CacheReader(config.cache) as opened:
            return sweep(config, reader=opened)
    sizes = plan_sweep(config, reader)
    at_once = config.jobs > 1 or config.engine == "ray"
    is_main = _require_alone(config) if at_once else process_state().is_main_process
    console.quiet = not is_main
    console.print(size_words(sizes), highlight=False)
    with directory_lock(config.out) if is_main else nullcontext():
        if at_once:
            outcomes = _side_by_side(sizes, config, reader)
        else:
            outcomes = _in_turn([size.recipe for size in sizes], config, reader)
        result = SweepResult(out=config.out, runs=tuple(outcomes))
        if is_main:
            _conclude(result, sizes, config, reader)
    return result


def plan_sweep(config: SweepConfig, reader: CacheReader | None = None) -> list[RunSize]:
    """The runs of a sweep and how much work they are; nothing is trained.

    Raises:
        DistillError: as `sweep`.
        CacheError: the cache is incomplete or damaged.
    """
    recipes = choose_recipes(load_recipes(config.recipes), config)
    if config.with_baseline:
        recipes = with_baselines(recipes)
    if reader is not None:
        return [measure_run(recipe, reader) for recipe in recipes]
    with CacheReader(config.cache) as opened:
        return [measure_run(recipe, opened) for recipe in recipes]


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


def _require_alone(config: SweepConfig) -> bool:
    num_processes = launch_number(os.environ, "WORLD_SIZE", 1, DistillError)
    if num_processes > 1:
        raise DistillError(
            f"{config.jobs} jobs on engine {config.engine} were asked for in one of "
            f"{num_processes} processes that train together. Start the sweep without "
            "`accelerate launch`, or leave --jobs and --engine out."
        )
    return True


def _in_turn(
    recipes: Sequence[Recipe], config: SweepConfig, reader: CacheReader
) -> list[RunOutcome]:
    outcomes = []
    for place, recipe in enumerate(recipes, start=1):
        console.rule(f"{place}/{len(recipes)} {recipe.name}", align="left")
        outcomes.append(run_recipe(recipe, config, reader))
    return outcomes


def _side_by_side(
    sizes: Sequence[RunSize], config: SweepConfig, reader: CacheReader
) -> list[RunOutcome]:
    done = {}
    with LiveTable(sizes, config.out) as table:
        for size in sizes:
            earlier = finished_before(size.recipe, config, reader)
            if earlier is not None:
                done[size.recipe.name] = earlier
                table.ended(earlier)
        left = [size.recipe for size in sizes if size.recipe.name not in done]
        run_left = run_ray_jobs if config.engine == "ray" else run_jobs
        done |= {outcome.name: outcome for outcome in run_left(left, config, table)}
    return [done[size.recipe.name] for size in sizes]


def _conclude(
    result: SweepResult, sizes: Sequence[RunSize], config: SweepConfig, reader: CacheReader
) -> None:
    """Plots, tables and the ledger."""
    done = [run for run in result.runs if run.status != FAILED]
    recipes = [size.recipe for size in sizes]
    console.print(sweep_table(result, {r.name for r in recipes if not r.learns_from_teacher}))
    found = gains(recipes, result.runs)
    if found:
        console.print(gains_table(found))
    if done:
        curves = {run.name: read_metrics(run.out / METRICS_FILE) for run in done}
        plot_runs(curves, result.out / "plots")
        ledger = open_ledger(
            reader, sizes, result.runs, teacher_parameters=config.teacher_parameters
        )
        write_json(result.out / LEDGER_FILE, ledger.to_json(), DistillError)
        plot_ledger(ledger, result.out / "plots")
        console.print(ledger_table(ledger))
        console.print(ledger_words(ledger), highlight=False, soft_wrap=True)
    for run in result.failed:
        console.print(f"{run.name} failed: {run.error}", style="red", markup=False, soft_wrap=True)
