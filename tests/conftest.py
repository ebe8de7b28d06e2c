"""Tiny, real parts shared by the tests: a tokenizer, teachers, problems and a cache."""

import gc
import os
from pathlib import Path
from typing import IO

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch
from matplotlib.figure import Figure

from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_teacher

torch.set_num_threads(1)
_paint = Figure.savefig


def _do_not_paint(figure: Figure, path: Path | IO[bytes], **options: object) -> None:
    if options:  # of a cache; what has none are the curves of a run
        _paint(figure, path, **options)
    else:
        Path(path).write_bytes(b"\x89PNG")


@pytest.fixture(scope="session", autouse=True)
def _curves_are_not_painted():
    """The six curves of a tiny run take five times as long as its training; see `painted`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Figure, "savefig", _do_not_paint)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _what_is_imported_is_no_garbage():
    """Every training and every build collects garbage, through all of torch and transformers."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def painted(monkeypatch):
    """For tests that look at curves."""
    monkeypatch.setattr(Figure, "savefig", _paint)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """Folder of a tiny random teacher with a vocabulary of 384."""
    folder = tmp_path_factory.mktemp("teacher")
    save_teacher(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory, tiny_teacher) -> Path:
    """A real cache of the example problems: 24 train and 10 validation documents, k = 16."""
    from cache.building.config import BuildConfig
    from cache.building.local import build_cache
    from cache.targets.format import TargetFormat

    out = tmp_path_factory.mktemp("caches") / "tiny"
    build_cache(
        BuildConfig(
            out=out,
            teacher=str(tiny_teacher),
            dataset=str(EXAMPLES),
            max_length=512,
            targets=TargetFormat(top_k=16),
            limit=24,
            shard_tokens=2000,
            batch_tokens=2048,
        )
    )
    return out
