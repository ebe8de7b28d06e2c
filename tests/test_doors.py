"""What other programs import: few names, each explained, none of which costs anything unused."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

from tests.support.paths import ROOT

PACKAGES = ("cache", "distill", "evaluation")
HEAVY = {"torch", "transformers", "datasets", "evaluate", "wandb", "h5py", "numpy", "matplotlib"}
NAMES = [(package, name) for package in PACKAGES for name in import_module(package).__all__]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_is_there_and_says_what_it_is(package, name):
    found = getattr(import_module(package), name)
    assert found.__module__.split(".")[0] == package
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        assert "Raises:" in found.__doc__, f"{name} names no error"


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_known_of_exactly_the_public_names(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(import_module(package).__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_costs_nothing_until_a_name_is_used(package):
    script = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_takes_the_place_of_a_public_name_when_it_is_imported(package):
    modules = {path.stem for path in (ROOT / package).iterdir()}
    assert modules > {"__init__"} and not modules & set(import_module(package).__all__)


def test_a_public_name_stays_what_it_is_whatever_was_imported_before():
    from distill import sweep, train

    for module in ("distill.run.train", "distill.sweeps.sweep"):
        import_module(module)
    from distill import sweep as again

    assert callable(again) and again is sweep
    assert callable(train)


def test_a_private_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cache' has no attribute 'rans'"):
        getattr(import_module("cache"), "rans")  # noqa: B009
