"""Students as tasks of a Ray cluster, as many at a time as it has room for.

The cache and the sweep's directory stand on a file system that every node sees: runs write there,
and the live table reads their logs there. Source: Moritz et al. 2018 (Ray).
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from cache.machine.ray_cluster import WORKER_ENVIRONMENT, gpus_or_one, ray_cluster, require_room
from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.settings.config import SweepConfig
from distill.settings.recipe import Recipe
from distill.sweeps.live_table import REFRESH_SECONDS, LiveTable
from distill.sweeps.result import FAILED, RunOutcome, reason
from distill.sweeps.run_recipe import log_path, run_recipe

RETRIES = 2
"""How often a student whose process or node was lost goes on from its last checkpoint."""


def run_ray_jobs(
    recipes: Sequence[Recipe], config: SweepConfig, table: LiveTable
) -> list[RunOutcome]:
    """Train recipes as Ray tasks and report every change to the table.

    A run that fails, or is lost more than `RETRIES` times, is an outcome. Runs are stopped if
    this function is left early.

    Raises:
        DistillError: Ray is not installed, no cluster answers, or none of its nodes has what a
            student needs.
    """
    if not recipes:
        return []
    with ray_cluster(config.ray_address, DistillError) as ray:
        gpus = gpus_or_one(ray, config.gpus_per_job)
        require_room(
            ray, config.ray_address, DistillError,
            who="a student", cpus=config.cpus_per_job, gpus=gpus,
        )  # fmt: skip
        task = ray.remote(
            num_cpus=config.cpus_per_job,
            num_gpus=gpus,
            max_retries=RETRIES,
            runtime_env=WORKER_ENVIRONMENT,
        )(_train)
        running = {}
        for recipe in recipes:
            log_path(recipe, config).unlink(missing_ok=True)
            running[task.remote(recipe, config)] = recipe
        try:
            return _collect(ray, running, config, table)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _collect(
    ray: Any, running: dict[Any, Recipe], config: SweepConfig, table: LiveTable
) -> list[RunOutcome]:
    """Outcomes in the order in which the runs end; `running` loses them."""
    outcomes, begun = [], set()
    while running:
        ended, _ = ray.wait(list(running), timeout=REFRESH_SECONDS)
        for recipe in running.values():
            if recipe.name not in begun and log_path(recipe, config).exists():
                begun.add(recipe.name)
                table.started(recipe.name, "Ray")
        for reference in ended:
            outcomes.append(_outcome(ray, reference, running.pop(reference), config))
            table.ended(outcomes[-1])
        table.refresh()
    return outcomes


def _outcome(ray: Any, reference: Any, recipe: Recipe, config: SweepConfig) -> RunOutcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # before it trained, as where no log can be
        why = reason(error.cause)
    except ray.exceptions.RayError as error:
        why = (
            f"its process was lost {RETRIES + 1} times ({type(error).__name__}; most often a "
            "lack of memory: give it more with --cpus-per-job). Its log: "
            f"{log_path(recipe, config)}"
        )
    return RunOutcome(name=recipe.name, out=config.out / recipe.name, status=FAILED, error=why)


def _train(recipe: Recipe, config: SweepConfig) -> RunOutcome:
    """One student, in a process of Ray's; what is printed goes to its log."""
    file = log_path(recipe, config).open("a", encoding="utf-8", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with CacheReader(config.cache) as reader:
        return run_recipe(recipe, config, reader)
