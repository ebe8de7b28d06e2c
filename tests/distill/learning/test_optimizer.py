"""What decays, where the optimizer comes from, and that a run goes on with it as it was."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from distill.errors import DistillError
from distill.learning.optimizer import build_optimizer
from distill.run.train import train
from tests.support.distill_fakes import FakeReader, Interrupt, config_for, small_recipe
from tests.support.learners import batches, make_learner


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


class EightBit(torch.optim.AdamW):
    """Stands in for bitsandbytes' optimizer, and notes what it was given."""

    given: list[dict] = []

    def __init__(self, groups, **options):
        EightBit.given.append({"sizes": [len(group["params"]) for group in groups], **options})
        super().__init__(groups, **options)


def after_one_step(reader, **recipe):
    learner = make_learner(reader, lr=1e-2, weight_decay=0.5, dropout=0.0, **recipe)
    before = {name: p.detach().clone() for name, p in learner.student.named_parameters()}
    learner.train_step(batches(reader, [[0, 1]]), 1)
    return before, dict(learner.student.named_parameters())


def test_only_matrices_decay_where_that_is_asked_for(reader):
    before, decayed = after_one_step(reader)
    _, spared = after_one_step(reader, decay="matrices")
    vectors = [name for name, weights in before.items() if weights.ndim == 1]
    assert any("ln_" in name for name in vectors) and any(".bias" in name for name in vectors)
    for name, start in before.items():
        # Decoupled: a step without decay, less lr * weight_decay of where it began.
        lost = 1e-2 * 0.5 * start if name in vectors else torch.zeros_like(start)
        torch.testing.assert_close(spared[name] - decayed[name], lost, atol=1e-6, rtol=0)


def test_a_group_without_parameters_is_left_out():
    vector, matrix = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (3, 3)))
    recipe = small_recipe(decay="matrices", weight_decay=0.5)
    for parameters, decay in (([vector], [0.0]), ([matrix], [0.5]), ([vector, matrix], [0.5, 0.0])):
        groups = build_optimizer(parameters, recipe, scaled=False).param_groups
        assert [group["weight_decay"] for group in groups] == decay
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    assert len(build_optimizer([matrix, frozen], recipe, scaled=False).param_groups) == 1


def test_eight_bits_come_from_bitsandbytes(monkeypatch):
    module = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=EightBit))
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((3,), (3, 3), (2, 3))]
    recipe = small_recipe(optimizer="adamw8bit", decay="matrices", lr=3e-3, weight_decay=0.2)
    assert isinstance(build_optimizer(parameters, recipe, scaled=False), EightBit)
    assert EightBit.given[-1] == {"sizes": [2, 1], "lr": 3e-3, "weight_decay": 0.2}


def test_without_bitsandbytes_eight_bits_are_refused(reader, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = config_for(reader, tmp_path / "out", optimizer="adamw8bit")
    with pytest.raises(DistillError, match="is adamw8bit, but bitsandbytes cannot .* pip install"):
        train(config, reader=reader)
    assert not config.out.exists()


def interrupted_and_whole(reader, folder, **recipe):
    """The weights of a run that was interrupted and gone on with, and those of one in one go."""
    options = {"lr_schedule": "linear", "weight_decay": 0.5, "epochs": 1, **recipe}
    config = replace(config_for(reader, folder / "out", **options), save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 3 + 10, KeyboardInterrupt()))
    saved = sorted((config.out / "checkpoints").iterdir())[-1]
    state = torch.load(saved / "optimizer.pt", weights_only=True)
    assert train(replace(config, resume=True), reader=reader).resumed_from_step
    train(replace(config, out=folder / "whole"), reader=reader)
    runs = (config.out, folder / "whole")
    return state, [(run / "model.safetensors").read_bytes() for run in runs]


def test_a_run_in_which_matrices_decay_resumes_to_the_same_bits(reader, tmp_path):
    state, weights = interrupted_and_whole(reader, tmp_path, decay="matrices")
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.5, 0.0]
    assert weights[0] == weights[1]


def test_a_run_in_eight_bits_resumes_to_the_same_bits(reader, tmp_path):
    pytest.importorskip("bitsandbytes")
    options = {"optimizer": "adamw8bit", "decay": "matrices", "student": "1x64x2"}
    state, weights = interrupted_and_whole(reader, tmp_path, **options)
    moments = [v for s in state["state"].values() for v in _tensors(s) if v.dtype == torch.uint8]
    assert moments  # of the matrices large enough
    assert weights[0] == weights[1]


def _tensors(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value
