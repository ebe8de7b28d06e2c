"""Students of other families, and those with adapters, in less memory and in fewer bits."""

import pytest
import torch
from transformers import AutoTokenizer

from tests.support.distill_fakes import FakeReader
from tests.support.learners import batches, make_learner
from tests.support.students import FAMILIES, save_student, student_of

KINDS = {**{family: (family, {}) for family in FAMILIES}, "adapted": ("qwen2", {"lora_rank": 2})}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def sources(reader, tmp_path_factory):
    """The folder of each family's model."""
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    folder = tmp_path_factory.mktemp("students")
    return {name: save_student(folder / name, name, tokenizer)[0] for name in FAMILIES}


def step(reader, source, recipe, **changed):
    """Loss and gradients by name of a step over packed and lone documents."""
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    torch.manual_seed(0)
    student = student_of(source, reader, tokenizer, **recipe)
    learner = make_learner(reader, model=student, **changed)
    learner.objective.train()
    microbatches = [*batches(reader, [[0, 1, 2]], per_sequence=[2, 1]), *batches(reader, [[3]])]
    losses = learner.accumulate_gradients(microbatches, step=1)
    learning = {name: p for name, p in student.named_parameters() if p.requires_grad}
    return losses.loss, {name: p.grad for name, p in learning.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_less_memory_means_the_same_gradient(kind, reader, sources):
    family, recipe = KINDS[kind]
    loss, gradients = step(reader, sources[family], recipe)
    again, others = step(reader, sources[family], recipe, gradient_checkpointing=True)
    assert again == loss
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_products_give_nearly_the_loss_and_gradient_of_fp32(kind, reader, sources):
    family, recipe = KINDS[kind]
    loss, gradients = step(reader, sources[family], recipe)
    half, others = step(reader, sources[family], recipe, precision="bf16")
    assert half == pytest.approx(loss, rel=0.02) and half != loss
    assert {gradient.dtype for gradient in others.values()} == {torch.float32}
    one, other = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, others))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99
