"""Which layers stay: by place, by what they change, by what their loss costs."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from distill.cutting.choose import (
    block_influences,
    by_influence,
    by_kl,
    divergence,
    evenly_spaced,
    teacher_log_probs,
)
from distill.errors import DistillError
from distill.learning.blocks import blocks_of, only_blocks
from tests.support.cut_models import model_of, with_blocks_passed_over

TEXTS = [torch.arange(1, 20), torch.arange(50, 60)]


def with_an_idle_layer(idle: int):
    """A teacher one of whose blocks adds nothing to what goes through it."""
    model = model_of("llama")
    block = blocks_of(model)[idle]
    nn.init.zeros_(block.self_attn.o_proj.weight)
    nn.init.zeros_(block.mlp.down_proj.weight)
    return model


@pytest.mark.parametrize(
    ("num_layers", "num_kept", "expected"),
    [
        (12, 6, [0, 2, 4, 7, 9, 11]),
        (24, 3, [0, 12, 23]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 2, [0, 4]),
        (5, 1, [0]),
    ],
)
def test_evenly_spaced_keeps_the_first_and_the_last(num_layers, num_kept, expected):
    assert evenly_spaced(num_layers, num_kept) == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_influence_is_one_minus_the_cosine_of_what_goes_in_and_out(family):
    model, done = model_of(family), []
    found = block_influences(model, TEXTS, on_measured=lambda *count: done.append(count))
    assert done == [(1, 2), (2, 2)]
    states = [
        model(input_ids=text.unsqueeze(0), output_hidden_states=True, use_cache=False).hidden_states
        for text in TEXTS
    ]
    for layer in range(3):  # what comes out of the last one is normed before it is shown
        cosines = [
            nn.functional.cosine_similarity(of_text[layer], of_text[layer + 1], dim=-1).flatten()
            for of_text in states
        ]
        assert found[layer] == pytest.approx(
            1 - float(torch.cat(cosines).detach().mean()), abs=1e-5
        )


@pytest.mark.parametrize("idle", [0, 2, 3])
def test_a_layer_that_does_nothing_is_the_first_to_go(idle):
    model, rest = with_an_idle_layer(idle), [layer for layer in range(4) if layer != idle]
    influences = block_influences(model, TEXTS)
    assert influences[idle] == pytest.approx(0, abs=1e-5)
    assert by_influence(influences, 3) == rest
    teacher = teacher_log_probs(model, TEXTS)
    assert by_kl(model, TEXTS, teacher, 3) == rest
    with only_blocks(model, rest):
        assert divergence(model, TEXTS, teacher) == pytest.approx(0, abs=1e-5)


def test_by_kl_takes_out_what_costs_least_at_each_step():
    model, done = model_of("qwen2"), []
    teacher = teacher_log_probs(model, TEXTS)
    kept = by_kl(model, TEXTS, teacher, 2, on_measured=lambda *count: done.append(count))
    first = min(range(4), key=lambda out: kl_by_hand(model, [i for i in range(4) if i != out]))
    rest = [layer for layer in range(4) if layer != first]
    second = min(rest, key=lambda out: kl_by_hand(model, [i for i in rest if i != out]))
    assert kept == [layer for layer in rest if layer != second]
    assert done == [(i, 7) for i in range(1, 8)]


@torch.no_grad()
def kl_by_hand(model, kept) -> float:
    """KL(teacher ‖ cut) in float64."""
    total = []
    for text in TEXTS:
        teacher = model(input_ids=text.unsqueeze(0), use_cache=False).logits[0].double()
        cut = with_blocks_passed_over(model, kept, text.unsqueeze(0))[0].double()
        p, q = teacher.softmax(-1), cut.softmax(-1)
        total.append((p * (p / q).log()).sum(-1))
    return float(torch.cat(total).mean())


def test_more_layers_than_there_are_cannot_be_kept():
    model = model_of("llama")
    for choose in (
        lambda number: evenly_spaced(4, number),
        lambda number: by_influence([0.1] * 4, number),
        lambda number: by_kl(model, TEXTS, teacher_log_probs(model, TEXTS), number),
    ):
        for number in (0, 5):
            with pytest.raises(DistillError, match=f"{number} layers were asked for"):
                choose(number)


def test_the_model_is_left_as_it_was():
    model = AutoModelForCausalLM.from_config(model_of("llama").config).eval()
    before = model(input_ids=TEXTS[0].unsqueeze(0)).logits
    by_kl(model, TEXTS, teacher_log_probs(model, TEXTS), 1)
    block_influences(model, TEXTS)
    assert torch.equal(model(input_ids=TEXTS[0].unsqueeze(0)).logits, before)
    assert not blocks_of(model)[0]._forward_hooks
