"""The floors of pyproject.toml are versions that were run, and run again here."""

import os
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

LOWEST = ROOT / "constraints-lowest.txt"
READERS_OF_CODE = ("mypy", "ruff")
"""Run on the code in one version, that of constraints.txt, and on no other."""
OF_ONE_TRANSFORMERS = "tests/distill/run/test_train.py::test_golden_loss_curve"
"""Random weights are drawn in an order that changes between releases of transformers."""


def pinned():
    lines = LOWEST.read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: next(iter(pin.specifier)).version for pin in pins}


def test_every_floor_is_the_version_that_was_run():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [Requirement(line) for group in groups for line in group]
    wanted = [one for one in wanted if one.name not in ("logitcache", *READERS_OF_CODE)]
    lowest = pinned()
    assert {one.name for one in wanted} == set(lowest)
    for one in wanted:
        (floor,) = one.specifier
        assert floor.operator == ">=" and one.specifier.contains(lowest[one.name])
        assert Requirement(f"x<={floor.version}").specifier.contains(lowest[one.name]), one.name
    assert sys.version_info[:2] >= (3, 11) and project["requires-python"] == ">=3.11"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_lowest_versions_install_and_pass_the_tests(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--constraint", LOWEST, f"{ROOT}[dev]"],
        check=True,
    )
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*tests, "--deselect", OF_ONE_TRANSFORMERS, ROOT / "tests"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
