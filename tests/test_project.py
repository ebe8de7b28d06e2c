"""The shape of the project: import directions, documents that are true, a wheel that works."""

import ast
import graphlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest

import cli
from tests.support.paths import ROOT

PACKAGES = ("cache", "distill", "evaluation")
MAY_IMPORT: dict[str, set[str]] = {
    "cache": {
        "cache/building", "cache/data", "cache/errors", "cache/machine", "cache/reading",
        "cache/remote", "cache/targets", "cache/tools",
    },
    "cache/errors": set(),
    "cache/machine": {"cache/errors"},
    "cache/targets": {"cache/errors"},
    "cache/data": {"cache/errors", "cache/machine"},
    "cache/teacher": {"cache/data", "cache/errors", "cache/machine", "cache/targets"},
    "cache/storage": {"cache/data", "cache/errors", "cache/machine", "cache/targets"},
    "cache/building": {
        "cache/data", "cache/errors", "cache/machine", "cache/storage", "cache/targets",
        "cache/teacher",
    },
    "cache/reading": {
        "cache/data", "cache/errors", "cache/machine", "cache/storage", "cache/targets",
    },
    "cache/remote": {"cache/errors", "cache/machine", "cache/storage"},
    "cache/tools": {
        "cache/building", "cache/data", "cache/errors", "cache/machine", "cache/reading",
        "cache/storage", "cache/targets", "cache/teacher",
    },
    "cache/page": {
        "cache/data", "cache/errors", "cache/machine", "cache/reading", "cache/storage",
        "cache/targets",
    },
    "cache/commands": {
        "cache/building", "cache/data", "cache/errors", "cache/machine", "cache/page",
        "cache/reading", "cache/remote", "cache/storage", "cache/targets", "cache/teacher",
        "cache/tools",
    },
    "distill": {
        "distill/batches", "distill/errors", "distill/learning", "distill/loss", "distill/run",
        "distill/settings", "distill/sweeps",
    },
    "distill/errors": set(),
    "distill/settings": {"distill/errors"},
    "distill/batches": {"distill/errors", "distill/settings"},
    "distill/loss": {"distill/errors"},
    "distill/learning": {"distill/batches", "distill/errors", "distill/loss", "distill/settings"},
    "distill/cutting": {"distill/errors", "distill/learning", "distill/settings"},
    "distill/samples": {"distill/batches"},
    "distill/run": {
        "distill/batches", "distill/errors", "distill/learning", "distill/loss",
        "distill/samples", "distill/settings",
    },
    "distill/sweeps": {
        "distill/batches", "distill/errors", "distill/learning", "distill/run",
        "distill/settings",
    },
    "distill/commands": {"distill/cutting", "distill/run", "distill/settings", "distill/sweeps"},
    "evaluation": {
        "evaluation/benchmark", "evaluation/config", "evaluation/errors", "evaluation/judging",
        "evaluation/metrics", "evaluation/problems",
    },
    "evaluation/errors": set(),
    "evaluation/config": {"evaluation/errors"},
    "evaluation/metrics": {"evaluation/errors"},
    "evaluation/sandbox": {"evaluation/config", "evaluation/errors"},
    "evaluation/problems": {"evaluation/errors", "evaluation/sandbox"},
    "evaluation/generation": {"evaluation/config", "evaluation/errors", "evaluation/problems"},
    "evaluation/agreement": {"evaluation/errors", "evaluation/generation", "evaluation/metrics"},
    "evaluation/models": {"evaluation/config", "evaluation/errors", "evaluation/generation"},
    "evaluation/judging": {
        "evaluation/config", "evaluation/errors", "evaluation/generation", "evaluation/metrics",
        "evaluation/problems", "evaluation/sandbox",
    },
    "evaluation/lessons": {
        "evaluation/config", "evaluation/errors", "evaluation/generation", "evaluation/judging",
        "evaluation/models", "evaluation/problems", "evaluation/sandbox",
    },
    "evaluation/comparison": {
        "evaluation/agreement", "evaluation/config", "evaluation/errors", "evaluation/generation",
        "evaluation/judging", "evaluation/metrics", "evaluation/models", "evaluation/problems",
        "evaluation/sandbox",
    },
    "evaluation/report": {
        "evaluation/agreement", "evaluation/comparison", "evaluation/errors",
        "evaluation/judging", "evaluation/metrics",
    },
    "evaluation/page": {
        "evaluation/errors", "evaluation/judging", "evaluation/problems", "evaluation/report",
    },
    "evaluation/benchmark": {
        "evaluation/agreement", "evaluation/comparison", "evaluation/config",
        "evaluation/errors", "evaluation/judging", "evaluation/models", "evaluation/page",
        "evaluation/problems", "evaluation/report", "evaluation/sandbox",
    },
    "evaluation/commands": {
        "evaluation/benchmark", "evaluation/config", "evaluation/judging", "evaluation/page",
        "evaluation/report",
    },
    "evaluation/lesson_commands": {
        "evaluation/commands", "evaluation/config", "evaluation/lessons",
    },
}  # fmt: skip
"""What each folder, and each file that stands in none, imports of its own package."""
OF_CACHE = {
    "distill": (
        "cache.errors", "cache.machine", "cache.targets.format", "cache.targets.soft_targets",
        "cache.targets.tails",
        "cache.reading.reader", "cache.remote.local_copy", "cache.teacher", "cache.data",
    ),
    "evaluation": (
        "cache.errors", "cache.machine", "cache.targets.format", "cache.targets.soft_targets",
        "cache.targets.tails",
        "cache.reading.reader", "cache.remote.local_copy", "cache.teacher", "cache.data",
        "cache.building.workers",
    ),
}  # fmt: skip
"""What the other packages import of `cache`: modules, or whole folders."""
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("*/*.md"))]


@cache
def modules() -> dict[str, Path]:
    """The files of the three packages, by dotted name."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return dict(zip((name.removesuffix(".__init__") for name in names), files, strict=True))


@cache
def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, at its top or inside of a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: relative import"
            found = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules())
            names |= found or {node.module}
    return names


def room_of(module: str) -> str:
    """The folder of a module; a module that stands in none is a room of its own."""
    path = modules()[module].relative_to(ROOT)
    return str(path.parent if len(path.parts) != 2 else path.with_suffix("")).removesuffix(
        "/__init__"
    )


@cache
def rooms() -> dict[str, set[str]]:
    """The modules of each room."""
    found: dict[str, set[str]] = {}
    for module in modules():
        found.setdefault(room_of(module), set()).add(module)
    return found


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_imports_what_it_may(room):
    package = room.split("/")[0]
    allowed = MAY_IMPORT.get(room, set()) | {room}
    for module in rooms()[room]:
        for name in imports_of(modules()[module]) & set(modules()):
            if name.split(".")[0] == package:
                assert room_of(name) in allowed, f"{module} imports {name}"
            else:
                known = OF_CACHE.get(package, ())
                assert any(f"{name}.".startswith(f"{one}.") for one in known), f"{module}: {name}"
        assert "cli" not in imports_of(modules()[module])


def test_every_room_has_its_list_and_no_circle_is_allowed():
    assert set(rooms()) == set(MAY_IMPORT)
    list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError


def test_a_room_says_what_it_is_for_and_is_no_larger_than_a_room():
    for room, names in rooms().items():
        folder = ROOT / room
        if folder.is_dir():
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), room
            assert len(names) - 1 <= 13, f"{room} has {len(names) - 1} files"


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        others = {name for name in imports_of(path) if re.search(r"(^|\.)test_\w+$", name)}
        assert not others, path


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
        "for name in ('page.css', 'charts.css', 'page.js'):\n"
        "    print(Path(evaluation.__file__).parent / 'page' / name)\n"
        "for name in ('page.css', 'page.js'):\n"
        "    print(Path(cache.__file__).parent / 'page' / name)\n"
        "find_recipe('model_44m_t1.5_a0.3')\n"
        "cli.main(['train', '--help'])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for line in lines[:11]:
        assert Path(line).is_relative_to(site) and Path(line).is_file()
    assert "Train one student from a cache" in result.stdout
