"""A sweep on a Ray cluster of this machine: the students of a local one, lost ones gone on with."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from distill.errors import DistillError
from distill.run.progress import console
from distill.settings.config import SweepConfig
from distill.settings.recipe_files import load_recipes
from distill.sweeps.ray_jobs import run_ray_jobs
from distill.sweeps.sweep import sweep
from tests.support.local_ray import two_cpus

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'logitcache[ray]'")
# A cluster of its own, which does not go well beside another one on two cores.
pytestmark = pytest.mark.slow

RECIPES = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, batch_size: 2, accumulate: 1, epochs: 1,
  sample_prompts: 0}
recipes: [{name: good}, {name: bad, precision: fp16}]
"""
LONG = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, batch_size: 1, accumulate: 1, epochs: 25,
  sample_prompts: 0}
recipes: [{name: long}]
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two CPUs; nothing of it is left behind."""
    with two_cpus():
        yield


def config_in(folder: Path, cache: Path, text: str, **options) -> SweepConfig:
    folder.mkdir(exist_ok=True)
    recipes = folder / "recipes.yaml"
    recipes.write_text(text)
    return SweepConfig(
        cache=cache, recipes=recipes, out=folder / "out", wandb="disabled", **options
    )


def weights(config: SweepConfig, name: str) -> bytes:
    return (config.out / name / "model.safetensors").read_bytes()


def kill_when_saved(run: Path, killed: list[float]) -> None:
    """SIGKILL the process that trains, once the run has a checkpoint."""
    while not killed:
        time.sleep(0.05)
        if not list(run.glob("checkpoints/step-*[0-9]")):
            continue
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words and words[0].startswith("ray::_train"):
                process.kill()
                killed.append(time.monotonic())


def test_students_of_a_cluster_are_those_of_this_machine(tmp_path, tiny_cache):
    config = config_in(tmp_path / "ray", tiny_cache, RECIPES, engine="ray")
    with console.capture() as capture:
        result = sweep(config)
    assert [run.status for run in result.runs] == ["trained", "failed"]
    assert "precision is fp16, but the device is cpu" in result.runs[1].error
    assert "good: started (Ray)" in capture.get()
    assert (config.out / "good.log").is_file() and (config.out / "ledger.json").is_file()
    local = config_in(tmp_path / "local", tiny_cache, RECIPES, only=("good",))
    sweep(local)
    assert weights(config, "good") == weights(local, "good")
    again = sweep(replace(config, only=("good",)))
    assert [run.status for run in again.runs] == ["skipped"]


def test_a_killed_student_goes_on_elsewhere_and_ends_the_same(tmp_path, tiny_cache):
    config = config_in(tmp_path / "ray", tiny_cache, LONG, engine="ray")
    killed: list[float] = []
    killer = threading.Thread(
        target=kill_when_saved, args=(config.out / "long", killed), daemon=True
    )
    killer.start()
    result = sweep(config)
    assert killed, "the run ended before it could be killed"
    assert [run.status for run in result.runs] == ["resumed"]
    local = config_in(tmp_path / "local", tiny_cache, LONG)
    sweep(local)
    assert weights(config, "long") == weights(local, "long")


def test_a_student_that_cannot_begin_says_why_and_is_not_lost(tmp_path):
    config = config_in(tmp_path / "ray", tmp_path / "no-cache", RECIPES, engine="ray")
    config.out.mkdir()
    recipe, *_ = load_recipes(config.recipes)
    table = SimpleNamespace(**dict.fromkeys(("started", "ended", "refresh"), lambda *args: None))
    (outcome,) = run_ray_jobs([recipe], config, table)
    assert outcome.status == "failed"
    assert "no-cache" in outcome.error and "lost" not in outcome.error


def test_a_student_that_fits_no_node_is_refused(tmp_path, tiny_cache):
    with pytest.raises(DistillError, match="needs 64 CPUs and 0 GPUs, but no node"):
        sweep(config_in(tmp_path, tiny_cache, RECIPES, engine="ray", cpus_per_job=64))
    with pytest.raises(DistillError, match="1 CPUs and 0.5 GPUs"):
        sweep(config_in(tmp_path, tiny_cache, RECIPES, engine="ray", gpus_per_job=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "engine is 'slurm'; choose from local, ray"),
        ({"engine": "ray", "jobs": 2}, "Leave --jobs out"),
        ({"ray_address": "auto"}, "need --engine ray"),
        ({"cpus_per_job": 2}, "need --engine ray"),
        ({"engine": "ray", "gpus_per_job": -1.0}, "cannot be negative"),
        ({"engine": "ray", "cpus_per_job": 0}, "cpus_per_job is 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, tiny_cache, options, message):
    with pytest.raises(DistillError, match=message):
        config_in(tmp_path, tiny_cache, RECIPES, **options)
