"""Recipes: their checks, their files, and where the package's own are found."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

import cache.targets.soft_targets
from distill.commands import train
from distill.errors import DistillError
from distill.settings import recipe_files
from distill.settings.config import SweepConfig, TrainConfig
from distill.settings.recipe import MAX_TEMPERATURE, MIN_TEMPERATURE, Recipe, recipe_from_mapping
from distill.settings.recipe_files import find_recipe, load_recipes, recipes_folder
from distill.settings.shapes import StudentShape, parse_shape
from tests.support.command_line import run
from tests.support.distill_fakes import small_recipe

MINIMAL = {"name": "a", "student": "tiny", "temperature": 2.0, "alpha": 0.5}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_five_recipes_of_the_package_are_those_of_the_design():
    recipes = load_recipes(recipes_folder() / "starcoder2-mbpp.yaml")
    assert [(r.name, r.student, r.temperature, r.alpha) for r in recipes] == [
        ("model_44m_t1.5_a0.3", "44m", 1.5, 0.3),
        ("model_44m_t1.7_a0.6", "44m", 1.7, 0.6),
        ("model_44m_t2.0_a0.5", "44m", 2.0, 0.5),
        ("model_202m_t2.0_a0.5", "202m", 2.0, 0.5),
        ("model_202m_t2.0_a0.7", "202m", 2.0, 0.7),
    ]
    for recipe in recipes:
        assert (recipe.epochs, recipe.batch_size, recipe.accumulate) == (7, 4, 4)
        assert (recipe.lr, recipe.clip, recipe.dropout) == (5e-5, 1.0, 0.1)


def test_defaults_of_a_recipe_are_the_defaults_of_the_packaged_file():
    packaged = find_recipe("model_44m_t2.0_a0.5")
    assert packaged == Recipe(name="model_44m_t2.0_a0.5", student="44m", temperature=2.0, alpha=0.5)


def test_a_packaged_file_is_found_by_its_bare_name():
    assert load_recipes("starcoder2-mbpp") == load_recipes(
        recipes_folder() / "starcoder2-mbpp.yaml"
    )


def test_recipes_inside_the_package_go_before_those_of_a_checkout(tmp_path, monkeypatch):
    (tmp_path / "distill/recipes").mkdir(parents=True)
    monkeypatch.setattr(recipe_files, "_PACKAGE", tmp_path / "distill")
    write(
        tmp_path / "distill/recipes/own.yaml",
        "recipes: [{name: a, student: tiny, temperature: 2, alpha: 1}]",
    )
    assert find_recipe("a").temperature == 2.0


def test_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        small_recipe().lr = 1.0


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(DistillError, match=r"no recipe named 'x'.*model_44m_t1.5_a0.3, model_44m"):
        find_recipe("x")


def test_temperature_range_is_that_of_the_cache():
    assert (MIN_TEMPERATURE, MAX_TEMPERATURE) == (
        cache.targets.soft_targets.MIN_TEMPERATURE,
        cache.targets.soft_targets.MAX_TEMPERATURE,
    )
    for temperature in (0.99, 4.01, float("nan")):
        with pytest.raises(DistillError, match="temperature is .* for 1 to 4 only"):
            small_recipe(temperature=temperature)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "../up", "cannot name a directory"),
        ("name", "", "cannot name a directory"),
        ("student", "77m", "unknown student '77m'; known are 44m, 202m, tiny"),
        ("student", "2x33x2", "width 33 is not divisible by its 2 heads"),
        ("student", "0x32x2", "each must be at least 1"),
        ("alpha", 1.1, "alpha is 1.1, but must be between 0 and 1"),
        ("alpha_end", -0.1, "alpha_end is -0.1, but must be between 0 and 1"),
        ("temperature_end", 5.0, "temperature_end is 5.0, .* for 1 to 4 only"),
        ("divergence", "kl", "divergence is 'kl', but must be one of forward_kl, reverse_kl"),
        ("lr_schedule", "step", "lr_schedule is 'step', but must be one of constant, linear"),
        ("warmup_ratio", 1.0, "warmup_ratio is 1.0, but must be at least 0 and less than 1"),
        ("epochs", 0, "epochs is 0, but must be at least 1"),
        ("batch_size", 0, "batch_size is 0"),
        ("batching", "dense", "batching is 'dense', but must be one of grouped, packed"),
        ("accumulate", 0, "accumulate is 0"),
        ("lr", 0.0, "lr is 0.0, but must be a positive"),
        ("clip", 0.0, "clip is 0.0, but must be a positive"),
        ("weight_decay", -0.1, "weight_decay is -0.1, but must be 0 or more"),
        ("decay", "biases", "decay is 'biases', but must be one of all, matrices"),
        ("optimizer", "sgd", "optimizer is 'sgd', but must be one of adamw, adamw8bit"),
        ("sample_prompts", -1, "sample_prompts is -1, but must be 0 or more"),
        ("dropout", 1.0, "dropout is 1.0, but must be at least 0 and less than 1"),
        ("loss_on", "code", "loss_on is 'code', but must be one of all, completion"),
        ("precision", "int8", "precision is 'int8', but must be one of auto"),
        ("seed", -1, "seed is -1, but must be between 0"),
    ],
)
def test_a_wrong_value_is_named(field, value, message):
    with pytest.raises(DistillError, match=message):
        small_recipe(**{field: value})


def test_shapes_are_presets_or_three_numbers():
    assert parse_shape("44m") == StudentShape(num_layers=6, width=512, num_heads=8)
    assert parse_shape("3x48x4") == StudentShape(num_layers=3, width=48, num_heads=4)
    assert parse_shape("llama:2x64x8x2") == StudentShape(
        num_layers=2, width=64, num_heads=8, family="llama", num_kv_heads=2
    )
    for wrong in ("bloom:2x64x8", "gpt2:2x64x8x2", "llama:2x64x8x3", "44mm"):
        with pytest.raises(DistillError):
            parse_shape(wrong)


def test_a_student_may_be_a_folder_or_a_hub_id(tmp_path):
    assert small_recipe(student="owner/name").student == "owner/name"
    assert small_recipe(student=str(tmp_path), init="random").init == "random"
    with pytest.raises(DistillError, match="init is 'pretrained', but must be random for a shape"):
        small_recipe(student="2x64x2", init="pretrained")
    listed = recipe_from_mapping({**MINIMAL, "freeze": ["wte"], "init": None})
    assert (listed.freeze, listed.init) == (("wte",), None)
    with pytest.raises(DistillError, match="freeze is 'wte', but must be of type list of strings"):
        recipe_from_mapping({**MINIMAL, "freeze": "wte"})


def test_yaml_numbers_without_a_point_are_numbers():
    assert recipe_from_mapping({**MINIMAL, "lr": "5e-5", "alpha": 1}).lr == 5e-5


def test_a_value_that_may_be_absent_is_read_as_a_number_or_as_nothing():
    assert recipe_from_mapping({**MINIMAL, "alpha_end": "1e-1"}).alpha_end == 0.1
    assert recipe_from_mapping({**MINIMAL, "alpha_end": None}).alpha_end is None
    with pytest.raises(DistillError, match="alpha_end is 'x', but must be of type float"):
        recipe_from_mapping({**MINIMAL, "alpha_end": "x"})


def test_unknown_missing_and_mistyped_keys_are_named():
    with pytest.raises(DistillError, match="recipe a has unknown keys: learning_rate"):
        recipe_from_mapping({**MINIMAL, "learning_rate": 1})
    with pytest.raises(DistillError, match="recipe a lacks alpha"):
        recipe_from_mapping({key: MINIMAL[key] for key in MINIMAL if key != "alpha"})
    with pytest.raises(DistillError, match="epochs is 2.5, but must be of type int"):
        recipe_from_mapping({**MINIMAL, "epochs": 2.5})
    with pytest.raises(DistillError, match="lr is True, but must be of type float"):
        recipe_from_mapping({**MINIMAL, "lr": True})


def test_a_recipe_says_only_what_differs_from_the_defaults(tmp_path):
    path = write(
        tmp_path / "r.yaml",
        "defaults: {student: tiny, alpha: 0.5, temperature: 2}\n"
        "recipes: [{name: a}, {name: b, alpha: 0.7}]",
    )
    assert [(r.name, r.alpha) for r in load_recipes(path)] == [("a", 0.5), ("b", 0.7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipes: []", "holds no recipes"),
        ("", "holds no recipes"),
        ("recipes: [a]", "recipe 1 is 'a', but must be a mapping"),
        ("recipes: [{name: a}", "is not valid YAML"),
        ("recipes: [{name: a, student: tiny}]", "r.yaml: recipe a lacks temperature, alpha"),
        ("recipes: [{name: a, seed: 2020-13-45}]", "is not valid YAML: month must be in 1..12"),
        (f"recipes: {'[' * 2000}", "is not valid YAML"),
        ("recipes: []\ngrid: {}\nrecipes: []", "line 3 has the key 'recipes', which line 1 has"),
        (
            "recipes: [{name: a,\n alpha: 1, 'alpha': 2}]",
            "line 2 has the key 'alpha', which line 2",
        ),
        (
            "defaults: {student: tiny, temperature: 2, alpha: 1}\n"
            "recipes: [{name: a}, {name: b}, {name: a}]",
            "more than one recipe named a",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, text, message):
    with pytest.raises(DistillError, match=message):
        load_recipes(write(tmp_path / "r.yaml", text))


def test_what_is_merged_into_a_mapping_may_be_named_again(tmp_path):
    text = """
defaults: {student: tiny, temperature: 2, alpha: 1}
recipes:
  - &first {name: a, epochs: 2}
  - &second {<<: *first, name: b}
  - {<<: *second, name: c, epochs: 3}
"""
    recipes = load_recipes(write(tmp_path / "r.yaml", text))
    assert [(recipe.name, recipe.epochs) for recipe in recipes] == [("a", 2), ("b", 2), ("c", 3)]


def test_a_missing_file_names_those_of_the_package(tmp_path):
    with pytest.raises(DistillError, match="no recipe file at .*starcoder2-mbpp"):
        load_recipes(tmp_path / "nothing.yaml")


def test_wandb_modes_and_names_of_a_sweep_are_checked(tmp_path):
    with pytest.raises(DistillError, match="wandb is 'on', but must be one of online"):
        TrainConfig(cache=tmp_path, recipe=small_recipe(), out=tmp_path, wandb="on")
    with pytest.raises(DistillError, match="recipes named more than once: a"):
        SweepConfig(cache=tmp_path, recipes=tmp_path, out=tmp_path, only=("a", "b", "a"))


def test_recipes_and_configurations_import_nothing_heavy():
    code = (
        "import sys, distill.settings.config, distill.settings.recipe_files, distill.errors\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'wandb', 'matplotlib', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_field_of_a_recipe_is_an_option_of_train():
    options = {parameter.name for parameter in train.params}
    assert {field.name for field in fields(Recipe)} - {"name"} <= options


def test_labels_alone_is_one_flag_of_train(tmp_path, monkeypatch):
    asked = []

    def note(config):
        asked.append(config)
        raise DistillError("enough")

    monkeypatch.setattr("distill.run.train.train", note)
    (tmp_path / "cache").mkdir()
    words = ("train", "--cache", tmp_path / "cache", "--recipe", "model_44m_t2.0_a0.5")
    code, output = run(*words, "--labels-alone", "--lr", "1e-3")
    assert code and "enough" in output
    assert asked[0].recipe == Recipe(
        name="model_44m_t2.0_a0.5_labels-alone", student="44m", temperature=1.0, alpha=0.0, lr=1e-3
    )
    assert str(asked[0].out) == "runs/model_44m_t2.0_a0.5_labels-alone"
    code, output = run(*words, "--labels-alone", "--alpha-end", "0.5", "--temperature", "2")
    assert code == 2 and "term out, and --alpha-end, --temperature with it" in output
