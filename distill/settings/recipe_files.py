"""YAML files of named recipes, and those that come with the package."""

from pathlib import Path

from distill.errors import DistillError
from distill.settings.grid import expand_grid
from distill.settings.recipe import Recipe, recipe_from_mapping
from distill.settings.strict_yaml import load_yaml

_PACKAGE = Path(__file__).resolve().parents[1]


def recipes_folder() -> Path:
    """Where the recipes that come with the project are: in the wheel, or in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def load_recipes(path: Path | str) -> list[Recipe]:
    """The recipes of a YAML file, in its order.

    The file maps `recipes` to a list of recipes, or `grid` to lists of values of which every
    combination is a recipe, or both; and `defaults`, if there, to the values that hold where
    they say nothing. `starcoder2-mbpp`, where no such file exists, means the one that comes
    with the package.

    Raises:
        DistillError: no such file, not the expected YAML, unknown keys, a key or a name that
            stands there twice.
    """
    path = _resolve(Path(path))
    loaded = load_yaml(path)
    content = loaded if isinstance(loaded, dict) else {}
    unknown = [str(key) for key in content if key not in ("defaults", "recipes", "grid")]
    if unknown:
        raise DistillError(
            f"{path} has unknown keys: {', '.join(unknown)}. Known are defaults, recipes, grid; "
            "settings of recipes stand below one of these."
        )
    defaults, listed = content.get("defaults") or {}, content.get("recipes") or []
    has_some = listed or "grid" in content
    if not isinstance(defaults, dict) or not isinstance(listed, list) or not has_some:
        raise DistillError(
            f"{path} holds no recipes. It needs `recipes:` with a list of at least one recipe, or "
            "`grid:` with lists of values, and may have `defaults:` with a mapping; "
            "recipes/starcoder2-mbpp.yaml shows how."
        )
    recipes: list[Recipe] = []
    try:
        for position, entry in enumerate(listed, start=1):
            if not isinstance(entry, dict):
                raise DistillError(
                    f"recipe {position} is {entry!r}, but must be a mapping with a `name`."
                )
            recipes.append(recipe_from_mapping({**defaults, **entry}))
        if "grid" in content:
            recipes += expand_grid(content["grid"], defaults)
    except DistillError as error:
        raise DistillError(f"{path}: {error}") from error
    names = [recipe.name for recipe in recipes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DistillError(
            f"{path} has more than one recipe named {', '.join(repeated)}. "
            "Names are directories of runs: give every recipe its own."
        )
    return recipes


def find_recipe(name: str, path: Path | str | None = None) -> Recipe:
    """The recipe of that name, from one file or from all that come with the package.

    Raises:
        DistillError: there is none; the message lists those that there are.
    """
    paths = [Path(path)] if path is not None else sorted(recipes_folder().glob("*.yaml"))
    recipes = [recipe for file in paths for recipe in load_recipes(file)]
    for recipe in recipes:
        if recipe.name == name:
            return recipe
    known = ", ".join(recipe.name for recipe in recipes) or "none"
    raise DistillError(
        f"no recipe named {name!r} in {', '.join(str(file) for file in paths)}; "
        f"known are: {known}. Use one of these names, or name another file of recipes."
    )


def _resolve(path: Path) -> Path:
    shipped = recipes_folder() / f"{path}.yaml"
    if not path.exists() and len(path.parts) == 1 and shipped.is_file():
        return shipped
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in recipes_folder().glob("*.yaml")))
        raise DistillError(
            f"no recipe file at {path}. Name a YAML file, or one that comes with the "
            f"package: {known}."
        )
    return path
