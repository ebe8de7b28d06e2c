"""Options of a recipe that are fine alone are fine together: every pair of values trains once."""

import itertools
import math
import shutil

import pytest

from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import BATCHINGS, DIVERGENCES, LOSS_ON, LR_SCHEDULES
from tests.support.distill_fakes import FakeReader, small_recipe

OPTIONS = {
    "divergence": DIVERGENCES,
    "loss_on": LOSS_ON,
    "lr_schedule": LR_SCHEDULES,
    "batching": BATCHINGS,
    "precision": ("fp32", "bf16"),
    "gradient_checkpointing": (False, True),
    "temperature_end": (None, 1.0),
    "alpha_end": (None, 0.0),
    "alpha": (0.5, 1.0),
    "warmup_ratio": (0.0, 0.5),
    "dropout": (0.0, 0.1),
    "accumulate": (1, 3),
}
COMPILED = {"compile": (True, False), "sample_prompts": (1, 0), **OPTIONS}


def pairs_of(row):
    return set(itertools.combinations(sorted(row.items()), 2))


def covering(options):
    """Few settings in which every pair of values stands at least once."""
    names = sorted(options)
    left = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(names, 2)
        for a in options[one]
        for b in options[other]
    }
    rows = []
    while left:
        # Begin with a pair that is left, then give each option the value that covers most.
        row = dict(min(left, key=repr))
        for name in names:
            if name not in row:
                row[name] = max(
                    options[name],
                    key=lambda value, name=name: len(pairs_of({**row, name: value}) & left),
                )
        left -= pairs_of(row)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"), num_train=6, num_validation=3)


def train_all(rows, reader, out):
    for place, row in enumerate(rows):
        recipe = small_recipe(**{"student": "2x16x2", "epochs": 1, **row})
        config = TrainConfig(
            cache=reader.path, recipe=recipe, out=out / str(place), wandb="disabled"
        )
        losses = train(config, reader=reader).losses
        assert all(math.isfinite(value) for value in losses.values()), row


def test_every_pair_of_options_trains(reader, tmp_path):
    rows = covering(OPTIONS)
    assert len(rows) < 20
    train_all(rows, reader, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_every_pair_of_options_trains_with_compiling_too(reader, tmp_path):
    train_all(covering(COMPILED), reader, tmp_path)
