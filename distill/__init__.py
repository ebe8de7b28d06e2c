"""Stage two: students trained from a cache of soft targets, without the teacher.

`__all__` is what other programs may use; it stays as it is between releases of one number.
Everything else is private and may move. Importing `distill` costs no torch: a name loads what it
needs when it is first used.
"""

from typing import TYPE_CHECKING

from cache.machine.lazy_names import lazy_names

if TYPE_CHECKING:
    from distill.batches.batch import Batch, collate
    from distill.batches.dataset import CachedDataset
    from distill.errors import DistillError
    from distill.learning.objective import distillation_loss
    from distill.loss.terms import LossSums
    from distill.run.result import TrainResult
    from distill.run.train import train
    from distill.settings.config import SweepConfig, TrainConfig
    from distill.settings.recipe import Recipe
    from distill.settings.recipe_files import find_recipe, load_recipes
    from distill.sweeps.result import SweepResult
    from distill.sweeps.sweep import sweep

__all__ = [
    "Batch",
    "CachedDataset",
    "DistillError",
    "LossSums",
    "Recipe",
    "SweepConfig",
    "SweepResult",
    "TrainConfig",
    "TrainResult",
    "collate",
    "distillation_loss",
    "find_recipe",
    "load_recipes",
    "sweep",
    "train",
]

__getattr__ = lazy_names(
    "distill",
    {
        "Batch": "distill.batches.batch",
        "CachedDataset": "distill.batches.dataset",
        "DistillError": "distill.errors",
        "LossSums": "distill.loss.terms",
        "Recipe": "distill.settings.recipe",
        "SweepConfig": "distill.settings.config",
        "SweepResult": "distill.sweeps.result",
        "TrainConfig": "distill.settings.config",
        "TrainResult": "distill.run.result",
        "collate": "distill.batches.batch",
        "distillation_loss": "distill.learning.objective",
        "find_recipe": "distill.settings.recipe_files",
        "load_recipes": "distill.settings.recipe_files",
        "sweep": "distill.sweeps.sweep",
        "train": "distill.run.train",
    },
)
