"""Grids: every combination of listed values, under names that stay."""

import pytest

from distill.errors import DistillError
from distill.settings.grid import IN_NAMES, expand_grid
from distill.settings.recipe import Recipe
from distill.settings.recipe_files import load_recipes

COMMON = {"student": "tiny", "temperature": 2.0, "alpha": 0.5}


def names(grid, **common):
    return [recipe.name for recipe in expand_grid(grid, {**COMMON, **common})]


def test_every_combination_is_a_recipe_named_by_its_values():
    recipes = expand_grid({"temperature": [1.5, 2], "alpha": [0.3, 0.5]}, COMMON)
    assert [recipe.name for recipe in recipes] == [
        "t1.5_a0.3",
        "t1.5_a0.5",
        "t2.0_a0.3",
        "t2.0_a0.5",
    ]
    assert {(r.temperature, r.alpha) for r in recipes} == {
        (1.5, 0.3),
        (1.5, 0.5),
        (2, 0.3),
        (2, 0.5),
    }
    assert {recipe.student for recipe in recipes} == {"tiny"}


def test_names_do_not_depend_on_the_order_of_the_file():
    one = names({"alpha": [0.5], "temperature": [2, 1.5]})
    assert set(one) == set(names({"temperature": [1.5, 2], "alpha": [0.5]}))
    assert set(one) < set(names({"temperature": [1.5, 2, 3], "alpha": [0.3, 0.5]}))


def test_close_values_and_values_of_other_kinds_keep_names_apart():
    assert names({"lr": ["5e-5", 5.0000001e-05, 3e-4]}) == ["lr5e-5", "lr5.0000001e-5", "lr0.0003"]
    assert names({"student": ["44m", "2x32x2"], "loss_on": ["completion"], "seed": [1]}) == [
        "44m_on-completion_seed1",
        "2x32x2_on-completion_seed1",
    ]
    assert names({"temperature_end": [None, 1]}, name="cool") == ["cool_tendnone", "cool_tend1.0"]


def test_names_say_only_fields_that_recipes_have():
    assert set(IN_NAMES) < set(Recipe.__dataclass_fields__)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "grid is {}, but must map fields to lists"),
        ([1], r"grid is \[1\], but must map"),
        ({"tempperature": [1]}, "grid has unknown fields: tempperature. Known are student, temp"),
        ({"name": ["a"]}, "grid has unknown fields: name"),
        ({"alpha": []}, r"grid: alpha is \[\], but must be a list of at least one value"),
        ({"alpha": 0.5}, "grid: alpha is 0.5, but must be a list"),
        ({"alpha": [0.5, 0.3, 0.5]}, "grid: alpha lists 0.5 more than once"),
        ({"temperature": [9]}, "temperature is 9.0, but a cache holds"),
        ({"epochs": [1.5]}, "epochs is 1.5, but must be of type int"),
    ],
)
def test_a_grid_that_cannot_be_used_says_why(grid, message):
    with pytest.raises(DistillError, match=message):
        expand_grid(grid, COMMON)


def test_a_file_may_hold_recipes_and_a_grid(tmp_path):
    path = tmp_path / "r.yaml"
    text = "defaults: {student: tiny, temperature: 2, alpha: 0.5}\ngrid: {lr: [1e-3, 2e-3]}\n"
    path.write_text(text)
    assert [recipe.name for recipe in load_recipes(path)] == ["lr0.001", "lr0.002"]
    path.write_text(text + "recipes: [{name: base}]\n")
    assert [recipe.name for recipe in load_recipes(path)] == ["base", "lr0.001", "lr0.002"]
    path.write_text(text + "recipes: [{name: lr0.001}]\n")
    with pytest.raises(DistillError, match=r"more than one recipe named lr0\.001"):
        load_recipes(path)
    path.write_text(text + "gird: {alpha: [1]}\n")
    with pytest.raises(DistillError, match="unknown keys: gird. Known are defaults, recipes, grid"):
        load_recipes(path)
    path.write_text("grid: {lr: [1e-3]}\n")
    with pytest.raises(DistillError, match="r.yaml: recipe of-the-grid lacks student"):
        load_recipes(path)
