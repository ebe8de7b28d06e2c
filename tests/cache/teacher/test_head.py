"""The head that is kept beside a cache does what the model's own does, whatever it is made of."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MptConfig,
    XLNetConfig,
)

from cache.errors import CacheError
from cache.targets.format import TargetFormat
from cache.targets.row_codec import RowCodec
from cache.teacher.head import linear_of
from cache.teacher.teacher import Teacher, head_of, max_positions_of

SMALL = {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip


class Adapted(nn.Linear):
    """A layer with an update of low rank, as adapters put beside it: `weight` is the base's."""

    def __init__(self, base: nn.Linear):
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.load_state_dict(base.state_dict())
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(4, base.in_features, generator=generator) * 0.3)
        self.up = nn.Parameter(torch.randn(base.out_features, 4, generator=generator) * 0.3)
        self.to(base.weight.dtype)

    def forward(self, rows):
        return super().forward(rows) + rows @ self.down.T @ self.up.T


class Squashed(nn.Linear):
    def forward(self, rows):
        return torch.tanh(super().forward(rows))


def rows_of(width, dtype):
    return torch.randn(20, width, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [None, 50.0])
def test_an_adapted_head_is_asked_and_not_read(dtype, tolerance, bias):
    torch.manual_seed(0)
    base = nn.Linear(16, 96, bias=bias is not None)
    if bias is not None:
        nn.init.normal_(base.bias, std=bias)
    head = Adapted(base.to(dtype))
    head.requires_grad_(False)
    weight, found_bias = linear_of(head)
    assert (found_bias is None) == (bias is None)
    rows = rows_of(16, dtype)
    expected = (head.weight + head.up @ head.down).float() @ rows.float().T
    found = weight.float() @ rows.float().T
    assert float((found - expected).norm() / expected.norm()) < tolerance
    read, read_bias = linear_of(base)
    assert torch.equal(read, base.weight) and (read_bias is None) == (bias is None)


def test_a_hidden_tail_of_an_adapted_head_is_what_the_model_says():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).eval()
    model.lm_head = Adapted(model.lm_head)
    teacher = Teacher(model)
    ids = torch.arange(30).unsqueeze(0)
    hidden = teacher.hidden(ids)[0]
    codec = RowCodec(TargetFormat(top_k=4, tail="hidden"), 96, head=head_of(model))
    rows = codec.encode(teacher.logits(hidden), hidden, ids[0])
    with torch.no_grad():
        expected = (model(input_ids=ids).logits[0].double() / 2).softmax(-1)
    found = codec.decode(rows).at(2.0).to_dense(96).double()
    assert float((found - expected).abs().sum(-1).max() / 2) < 5e-3


def test_a_head_that_is_not_linear_is_refused():
    with pytest.raises(CacheError, match=r"The output head \(Squashed\) is not linear"):
        linear_of(Squashed(16, 96))


def test_the_trunk_of_llama_4_is_found_though_it_bears_another_name():
    torch.manual_seed(0)
    config = Llama4TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, num_local_experts=2, intermediate_size_mlp=24,
        attention_chunk_size=32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    assert model.base_model is model
    assert Teacher(model).trunk is model.model


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=70), 70),
        (GPT2Config(n_positions=71), 71),
        (MptConfig(max_seq_len=72), 72),
        (Gemma3Config(text_config={"max_position_embeddings": 73}), 73),
        (XLNetConfig(), None),
    ],
)
def test_positions_are_found_where_a_configuration_has_them(config, limit):
    assert max_positions_of(SimpleNamespace(config=config)) == limit
