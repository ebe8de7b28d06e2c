"""Tiny random models of several families, and what they say with some blocks passed over."""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Starcoder2Config,
)

from distill.learning.blocks import blocks_of
from tests.support.students import SIZES, SLIDES

COMMON = {**SIZES, "vocab_size": 96, "num_hidden_layers": 4, "initializer_range": 0.3}
FAMILIES = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "starcoder2": Starcoder2Config(**COMMON),
    "gemma3": Gemma3TextConfig(**COMMON, head_dim=8, sliding_window=3, layer_types=2 * SLIDES),
    "gpt2": GPT2Config(
        vocab_size=96, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.3
    ),
    "neox": GPTNeoXConfig(**{k: v for k, v in COMMON.items() if k != "num_key_value_heads"}),
}  # fmt: skip
TEXT = torch.arange(1, 21).unsqueeze(0)


def model_of(family: str):
    torch.manual_seed(0)
    config = type(FAMILIES[family]).from_dict(FAMILIES[family].to_dict())
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def logits(model, text: torch.Tensor = TEXT) -> torch.Tensor:
    return model(input_ids=text, use_cache=False).logits


@torch.no_grad()
def with_blocks_passed_over(model, kept, text: torch.Tensor = TEXT) -> torch.Tensor:
    """The whole model's logits where the other blocks hand on what they are given."""

    def passed_over(block, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        return (before, *output[1:]) if isinstance(output, tuple) else before

    hooks = [
        block.register_forward_hook(passed_over, with_kwargs=True)
        for number, block in enumerate(blocks_of(model))
        if number not in kept
    ]
    found = logits(model, text)
    for hook in hooks:
        hook.remove()
    return found
