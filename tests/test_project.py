"""The shape of the project: import directions, documents that are true, a wheel that works."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cli
from tests.support.paths import ROOT

PACKAGES = ("cache", "distill", "evaluation")
MAY_IMPORT = {
    "cache": {"cache"},
    "distill": {"cache", "distill"},
    "evaluation": {"cache", "evaluation"},
}
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("*/*.md"))]


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imports_of(path)} & {*PACKAGES, "cli"}
        assert ours <= MAY_IMPORT[package], path


@pytest.mark.parametrize("package", ["distill", "evaluation"])
def test_caches_are_read_through_the_reader_alone(package):
    for path in (ROOT / package).rglob("*.py"):
        names = imports_of(path)
        assert (
            not {"cache.storage.shard", "cache.storage.manifest", "cache.machine.durable", "h5py"}
            & names
        ), path


def commands_in(path: Path) -> list[str]:
    text = path.read_text().replace("\\\n", " ")
    found = re.findall(r"^\s*(?:python cli\.py|logitcache) (.+)$", text, flags=re.MULTILINE)
    return [command.split(" #")[0].strip() for command in found]


@pytest.mark.parametrize(
    ("document", "command"),
    [(path.name, command) for path in DOCUMENTS for command in commands_in(path)],
)
def test_every_command_of_the_documents_is_one_that_the_command_line_takes(document, command):
    words = shlex.split(command)
    node: click.Command = cli.main
    while isinstance(node, click.Group):
        node = node.commands[words.pop(0)]
    node.make_context("test", words, resilient_parsing=False)
    assert words is not None


def test_the_readme_shows_the_commands_of_the_real_use():
    text = "\n".join(commands_in(ROOT / "README.md"))
    for command in ("cache-teacher", "train", "sweep", "evaluate"):
        assert command in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_an_installed_wheel_runs_and_finds_its_recipes_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel],
        check=True,
    )
    script = (
        "import cli, cache, distill, evaluation\n"
        "from pathlib import Path\n"
        "from distill.settings.recipe_files import find_recipe, recipes_folder\n"
        "for module in (cli, cache, distill, evaluation): print(module.__file__)\n"
        "print(recipes_folder() / 'starcoder2-mbpp.yaml')\n"
        "print(Path(cache.__file__).parent / 'FORMAT.md')\n"
        "for name in ('css', 'js'):\n"
        "    print(Path(evaluation.__file__).parent / 'page' / f'page.{name}')\n"
        "find_recipe('model_44m_t1.5_a0.3')\n"
        "cli.main(['train', '--help'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for line in lines[:8]:
        assert Path(line).is_relative_to(site) and Path(line).is_file()
    assert "Train one student from a cache" in result.stdout
