"""One process at a time writes to the directory of a run, and to that of a sweep."""

import os
from dataclasses import replace

import pytest

import cache.machine.lock
from cache.machine.lock import writer_lock
from distill.errors import DistillError
from distill.run.train import train
from distill.settings.config import SweepConfig, TrainConfig
from distill.sweeps.sweep import sweep
from tests.support.distill_fakes import FakeReader, Interrupt, small_recipe


@pytest.fixture
def reader(tmp_path):
    return FakeReader(tmp_path / "cache")


@pytest.fixture
def config(tmp_path, reader):
    return TrainConfig(
        cache=reader.path, recipe=small_recipe(epochs=1), out=tmp_path / "out", wandb="disabled"
    )


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    """A lock that is held is refused at the second look."""
    monkeypatch.setattr(cache.machine.lock, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(cache.machine.lock, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize("begun", [False, True])
def test_a_directory_in_which_another_process_trains_is_refused(config, reader, begun):
    if begun:
        with pytest.raises(KeyboardInterrupt):
            train(config, reader=Interrupt(reader, 6, KeyboardInterrupt()))
    config.out.mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with (
        writer_lock(config.out),
        pytest.raises(
            DistillError, match=rf"(?s)being written by host .*, pid {os.getpid()}.*--out"
        ),
    ):
        train(replace(config, resume=True), reader=reader)
    found = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    assert found == before
    assert train(replace(config, resume=True), reader=reader).num_steps == 6
    assert not list(config.out.glob("*.lock"))


def test_a_directory_in_which_another_sweep_writes_is_refused(tmp_path, reader):
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text("recipes: [{name: a, student: 1x16x2, temperature: 2, alpha: 0.5}]")
    config = SweepConfig(cache=reader.path, recipes=recipes, out=tmp_path / "sweep")
    config.out.mkdir()
    for jobs in (1, 2):
        with writer_lock(config.out), pytest.raises(DistillError, match="being written by host"):
            sweep(replace(config, jobs=jobs), reader=reader)
    assert list(config.out.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path, config, reader, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", lambda path, **options: refuse(path))
    with pytest.raises(DistillError, match="out could not be written: Permission denied"):
        train(config, reader=reader)
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text("recipes: [{name: a, student: 1x16x2, temperature: 2, alpha: 0.5}]")
    swept = SweepConfig(cache=reader.path, recipes=recipes, out=tmp_path / "sweep", jobs=2)
    with pytest.raises(DistillError, match="sweep could not be written: Permission denied"):
        sweep(swept, reader=reader)
    assert not config.out.exists() and not swept.out.exists()
