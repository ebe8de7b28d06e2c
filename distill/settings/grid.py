"""A grid of settings: every combination of the values it lists is one recipe."""

import itertools
from dataclasses import fields, replace
from typing import Any

from distill.errors import DistillError
from distill.settings.recipe import Recipe, recipe_from_mapping

IN_NAMES = {
    "student": "",
    "temperature": "t",
    "temperature_end": "tend",
    "alpha": "a",
    "alpha_end": "aend",
    "divergence": "",
    "batch_size": "batch",
    "accumulate": "acc",
    "lr_schedule": "",
    "warmup_ratio": "warmup",
    "weight_decay": "wd",
    "decay": "decay-",
    "optimizer": "",
    "loss_on": "on-",
    "precision": "",
}
"""What stands before a field's value in the names of runs, where that is not its own name."""


def expand_grid(grid: Any, common: dict[str, Any]) -> list[Recipe]:
    """The recipes of a grid; the field that comes last in `Recipe` changes fastest.

    A name is made of every field of the grid, in the order of `Recipe` whatever their order in
    the file, so a run keeps its name, and its directory, when values are added or moved. A
    `name` among the common settings stands in front.

    Args:
        grid: maps fields to lists of values.
        common: the values of the other fields.

    Raises:
        DistillError: not a mapping of known fields to lists, a list that is empty or has a value
            twice, or a value that makes no recipe.
    """
    if not isinstance(grid, dict) or not grid:
        raise DistillError(
            f"grid is {grid!r}, but must map fields to lists of values, for example "
            "grid: {temperature: [1.5, 2.0], alpha: [0.3, 0.5]}."
        )
    known = [field.name for field in fields(Recipe) if field.name != "name"]
    unknown = [str(key) for key in grid if key not in known]
    if unknown:
        raise DistillError(
            f"grid has unknown fields: {', '.join(unknown)}. Known are {', '.join(known)}; "
            "names follow from their values. Correct the spelling or remove them."
        )
    for field, values in grid.items():
        _require_values(field, values)
    varied = [field for field in known if field in grid]
    recipes = []
    for values in itertools.product(*(grid[field] for field in varied)):
        setting = dict(zip(varied, values, strict=True))
        recipe = recipe_from_mapping({**common, **setting, "name": "of-the-grid"})
        parts = [str(common["name"])] if "name" in common else []
        parts += [_in_name(field, getattr(recipe, field)) for field in varied]
        recipes.append(replace(recipe, name="_".join(parts)))
    return recipes


def _in_name(field: str, value: Any) -> str:
    """Exact, so that two values never look the same; 5e-05 is written 5e-5."""
    text = "none" if value is None else str(value)
    return IN_NAMES.get(field, field) + text.replace("e-0", "e-").replace("e+", "e")


def _require_values(field: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise DistillError(
            f"grid: {field} is {values!r}, but must be a list of at least one value. "
            "A value that all runs share belongs in `defaults`."
        )
    repeated = [str(value) for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise DistillError(
            f"grid: {field} lists {', '.join(repeated)} more than once. Name each value once."
        )
