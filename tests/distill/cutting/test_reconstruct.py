"""What is left of a teacher is fitted to it: right answers known beforehand, or found by numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from distill.cutting.narrow import narrow
from distill.cutting.parts import feed_forwards, output_weight
from distill.cutting.reconstruct import HELD_OUT, RIDGES, flows_of, reconstruct, require_fit
from distill.errors import DistillError
from distill.learning.blocks import blocks_of, keep_blocks
from tests.support.cut_models import FAMILIES, logits, model_of, with_blocks_passed_over

ADDING = [family for family in FAMILIES if family != "gemma3"]
TEXTS = [torch.randint(1, 96, (24,), generator=torch.Generator().manual_seed(i)) for i in range(40)]
OTHER = torch.randint(1, 96, (1, 24), generator=torch.Generator().manual_seed(99))


@pytest.mark.parametrize("family", ADDING)
def test_neurons_whose_twins_go_do_their_work_too(family, monkeypatch):
    monkeypatch.setattr("distill.cutting.reconstruct.RIDGES", (1e-6,))
    model = model_of(family).double()
    half = feed_forwards(model)[0].num_units // 2
    sums = []
    with torch.no_grad():
        for part in feed_forwards(model):
            for layer in part.inputs:
                rows = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
                rows[half:] = rows[:half]
                if layer.bias is not None:
                    layer.bias[half:] = layer.bias[:half]
            weight = output_weight(part.output)
            sums.append(weight[:, :half] + weight[:, half:])
    expected = logits(model, OTHER)
    flows = flows_of(model, TEXTS)
    narrow(model, neurons=[list(range(half))] * 4)
    before = (logits(model, OTHER) - expected).norm()
    reconstruct(model, flows, range(4))
    assert (logits(model, OTHER) - expected).norm() < 1e-4 * before
    for part, right in zip(feed_forwards(model), sums, strict=True):
        assert (output_weight(part.output) - right).norm() < 1e-4 * right.norm()


@torch.no_grad()
def neurons_and_states(model, text) -> tuple[list, list]:
    """(S, I) of each feed-forward network and (S, D) after each block, seen from outside."""
    neurons, states = [], []
    hooks = [
        part.output.register_forward_pre_hook(lambda layer, given: neurons.append(given[0][0]))
        for part in feed_forwards(model)
    ]
    hooks += [
        block.register_forward_hook(
            lambda block, given, out: states.append((out[0] if isinstance(out, tuple) else out)[0])
        )
        for block in blocks_of(model)
    ]
    model(input_ids=text.unsqueeze(0), use_cache=False)
    for hook in hooks:
        hook.remove()
    return neurons, states


@pytest.mark.parametrize("family", ADDING)
def test_what_a_block_takes_over_from_the_next_is_the_ridge_solution(family):
    model = model_of(family).double()
    kept = [0, 1, 3]
    teacher = [neurons_and_states(model, text) for text in TEXTS]
    flows = flows_of(model, TEXTS)
    keep_blocks(model, kept)
    bare = [output_weight(part.output).detach().clone() for part in feed_forwards(model)]
    reconstruct(model, flows, kept)
    changes = [
        (output_weight(part.output) - old).detach().numpy()
        for part, old in zip(feed_forwards(model), bare, strict=True)
    ]
    assert np.array_equal(changes[0], np.zeros_like(changes[0]))  # nothing is missing there
    fitted = [number for number in range(len(TEXTS)) if number % HELD_OUT]
    wanted = torch.cat([teacher[number][1][2] for number in fitted]).numpy()
    own = torch.cat([teacher[number][1][1] for number in fitted]).numpy()
    scale = np.linalg.norm(wanted, axis=1, keepdims=True)
    a = torch.cat([teacher[number][0][1] for number in fitted]).numpy() / scale
    missing = (wanted - own) / scale
    unit = np.mean(np.sum(a**2, axis=0))
    answers = [
        np.linalg.lstsq(
            np.vstack([a, np.sqrt(ridge * unit) * np.eye(a.shape[1])]),
            np.vstack([missing, np.zeros((a.shape[1], missing.shape[1]))]),
            rcond=None,
        )[0].T
        for ridge in RIDGES
    ]
    assert min(np.abs(changes[1] - answer).max() for answer in answers) < 1e-9


def test_texts_that_were_not_fitted_have_the_last_word():
    """Noise that nothing predicts: the weights stay, though the fitted rows would gain."""
    model = model_of("llama").double()
    flows = flows_of(model, TEXTS[:3])
    draw = torch.Generator().manual_seed(0)
    for flow in flows:
        flow.states[-1] = flow.states[-1] + torch.randn(
            flow.states[-1].shape, generator=draw, dtype=torch.float64
        )
    before = logits(model, OTHER)
    reconstruct(model, flows, range(4))
    assert torch.equal(logits(model, OTHER), before)


@pytest.mark.parametrize("family", ADDING)
def test_a_cut_model_comes_nearer_to_its_teacher_on_another_text(family):
    model = model_of(family)
    expected = logits(model, OTHER).log_softmax(-1)
    flows = flows_of(model, TEXTS)
    kept = [0, 2]
    bare = with_blocks_passed_over(model, kept, OTHER).log_softmax(-1)
    keep_blocks(model, kept)
    reconstruct(model, flows, kept)
    found = logits(model, OTHER).log_softmax(-1)
    cost, left = (float((expected.exp() * (expected - q)).sum()) for q in (bare, found))
    assert left < 0.9 * cost


def test_a_family_that_norms_what_is_added_is_refused_before_it_is_read():
    with pytest.raises(DistillError, match="Gemma3ForCausalLM norms or scales"):
        require_fit(model_of("gemma3"), TEXTS)


def test_one_text_cannot_choose_and_be_fitted():
    with pytest.raises(DistillError, match="1 documents are left to fit on"):
        require_fit(model_of("llama"), TEXTS[:1])
