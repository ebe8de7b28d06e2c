"""Which neurons and heads go, and that a narrow model is the teacher with these silent."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from distill.cutting.narrow import largest, measure_magnitudes, narrow, require_widths
from distill.errors import DistillError
from distill.learning.blocks import blocks_of
from tests.support.cut_models import FAMILIES, TEXT, logits, model_of

TEXTS = [torch.arange(1, 20), torch.arange(50, 60)]
WITH_HEADS = ["llama", "qwen2", "starcoder2", "gemma3"]
OUTPUTS = ("down_proj", "c_proj", "dense_4h_to_h")


def outputs(model, names) -> list[nn.Module]:
    """The layers of some names, one a block, with the most inputs where several fit."""
    return [
        max(
            (module for name, module in block.named_modules() if name.split(".")[-1] in names),
            key=lambda layer: layer.weight.numel(),
        )
        for block in blocks_of(model)
    ]


@torch.no_grad()
def silence(layers, units) -> None:
    """Put zeros into the output weights of some units of each layer, in place."""
    for layer, own in zip(layers, units, strict=True):
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        weight[:, own] = 0


def silent_units(num_units: int, num_silent: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randperm(num_units, generator=draw)[:num_silent] for _ in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_that_nothing_listens_to_are_the_ones_that_go(family, tmp_path):
    model = model_of(family).double()
    layers = outputs(model, OUTPUTS)
    width = 128 if family == "gpt2" else 48
    silent = silent_units(width, width // 3)
    silence(layers, silent)
    expected = logits(model)
    found = measure_magnitudes(model, TEXTS, neurons=True, kv_heads=False)
    kept = largest(found.neurons, width - width // 3)
    for own, gone in zip(kept, silent, strict=True):
        assert set(own) == set(range(width)) - set(gone.tolist())
    narrow(model, neurons=kept)
    torch.testing.assert_close(logits(model), expected, rtol=1e-9, atol=1e-9)
    require_same_in_folder(model, expected, tmp_path)


@pytest.mark.parametrize("family", WITH_HEADS)
def test_heads_that_nothing_listens_to_go_with_their_keys_and_values(family, tmp_path):
    model = model_of(family).double()
    silent = [[0], [1], [1], [0]]
    silence(
        outputs(model, ("o_proj",)),
        [torch.arange(16) + 16 * group for (group,) in silent],  # two queries of width 8
    )
    expected = logits(model)
    found = measure_magnitudes(model, TEXTS, neurons=False, kv_heads=True)
    kept = largest(found.kv_heads, 1)
    assert kept == [[1], [0], [0], [1]]
    narrow(model, kv_heads=kept)
    torch.testing.assert_close(logits(model), expected, rtol=1e-9, atol=1e-9)
    config = require_same_in_folder(model, expected, tmp_path).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)


def require_same_in_folder(model, expected, folder):
    """Plain transformers reads the same model back, and generates with it."""
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    # buffers that are not saved, Gemma's scale of embeddings, are fp32 in one of the two
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    ids = loaded.generate(TEXT, max_new_tokens=3, do_sample=False, pad_token_id=0)
    whole = loaded(input_ids=ids[:, :-1], use_cache=False).logits[:, -3:].argmax(-1)
    assert ids[:, -3:].tolist() == whole.tolist()
    return loaded


def test_a_unit_counts_for_the_length_of_what_it_adds():
    model = model_of("llama")
    found = measure_magnitudes(model, TEXTS, neurons=True, kv_heads=True)
    block, added, heads = blocks_of(model)[2], torch.zeros(48).double(), torch.zeros(2).double()
    taken = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: taken.update({layer: given[0][0]}))
        for layer in (block.mlp.down_proj, block.self_attn.o_proj)
    ]
    for text in TEXTS:
        logits(model, text.unsqueeze(0))
        for layer, total, columns in (
            (block.mlp.down_proj, added, 1),
            (block.self_attn.o_proj, heads, 16),
        ):
            given, weight = taken[layer].double(), layer.weight.detach().double()
            for unit in range(len(total)):
                own = slice(unit * columns, (unit + 1) * columns)
                for token in given:
                    total[unit] += (weight[:, own] @ token[own]).square().sum().sqrt()
    torch.testing.assert_close(found.neurons[2], added, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.kv_heads[2], heads, rtol=1e-5, atol=1e-5)
    for hook in hooks:
        hook.remove()


def test_the_largest_are_kept_in_their_order():
    magnitudes = [torch.tensor([0.1, 5.0, 2.0, 2.0]), torch.tensor([9.0, 0.0, 0.0, 1.0])]
    assert largest(magnitudes, 2) == [[1, 2], [0, 3]]


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_heads_of_a_family_that_is_not_known_are_refused_by_name(family):
    model = model_of(family)
    with pytest.raises(DistillError, match=f"the attention of {type(model).__name__} is not one"):
        require_widths(model, num_kv_heads=1)


def test_a_block_of_several_feed_forward_networks_is_refused():
    model = model_of("llama")
    blocks_of(model)[1].other = type(blocks_of(model)[1].mlp)(model.config)
    with pytest.raises(DistillError, match="the feed-forward network of LlamaForCausalLM"):
        require_widths(model, num_neurons=8)


def test_heads_that_share_a_norm_are_refused():
    model = model_of("llama")
    blocks_of(model)[0].self_attn.q_norm = nn.LayerNorm(32)
    with pytest.raises(DistillError, match="whose heads have weights in common"):
        require_widths(model, num_kv_heads=1)


def test_numbers_that_the_family_does_not_take_are_refused_before_anything_is_measured():
    config = type(FAMILIES["llama"])(
        **{**FAMILIES["llama"].to_dict(), "hidden_size": 64, "head_dim": 16,
           "num_attention_heads": 4, "num_key_value_heads": 4}
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(DistillError, match="LlamaForCausalLM cannot be made as narrow as asked"):
        require_widths(model, num_kv_heads=3)  # 64 is no multiple of 3


def test_a_model_that_reads_its_units_in_another_way_is_refused():
    model = model_of("llama")
    mlp = blocks_of(model)[3].mlp
    plain = type(mlp).forward

    class Reversed(type(mlp)):
        """Adds what depends on how many neurons there are."""

        def forward(self, x):
            return plain(self, x) * self.gate_proj.out_features

    mlp.__class__ = Reversed
    with pytest.raises(DistillError, match="a block does not compute what it did with other units"):
        narrow(model, neurons=[list(range(20))] * 4)
