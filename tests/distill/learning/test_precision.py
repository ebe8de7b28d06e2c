"""The Accelerator of a run: what the environment says changes nothing that a recipe decides."""

import pytest
import torch
from accelerate import Accelerator

from distill.errors import DistillError
from distill.learning.precision import FOREIGN_ENGINES, start_accelerator
from tests.support.distill_fakes import FakeReader
from tests.support.learners import batches, gradient, make_learner

LAUNCHED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DYNAMO_MODE": "max-autotune",
}
"""What `accelerate launch` writes for a configuration that asks for all of it."""


def test_a_step_is_the_recipes_whatever_was_launched(tmp_path, monkeypatch):
    reader = FakeReader(tmp_path)
    expected = gradient(make_learner(reader), batches(reader, [[0, 1], [2]]))
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    learner = make_learner(reader)
    losses, gradients = gradient(learner, batches(reader, [[0, 1], [2]]))
    assert losses == expected[0]
    assert all(map(torch.equal, gradients, expected[1]))
    assert learner.accelerator.mixed_precision == "no"
    assert learner.objective.__class__.__name__ == "Objective"  # not a compiled one


def test_what_an_earlier_accelerator_of_the_process_accumulated_is_forgotten():
    Accelerator(cpu=True, gradient_accumulation_steps=8)
    assert start_accelerator("fp32").gradient_accumulation_steps == 1


@pytest.mark.parametrize("variable", FOREIGN_ENGINES)
def test_engines_that_split_a_student_are_refused(variable, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(DistillError, match=rf"{variable} asks for .*Unset {variable}"):
        start_accelerator("fp32")
