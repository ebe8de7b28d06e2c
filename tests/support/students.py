"""Small models of several families with random weights, saved in a folder as students are given."""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from distill.learning.student import first_student
from tests.support.distill_fakes import VOCAB_SIZE, small_recipe

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
SLIDES = ["sliding_attention", "full_attention"]
FAMILIES = {
    "llama": (LlamaConfig, SIZES),
    "qwen2": (Qwen2Config, SIZES),
    "qwen3": (Qwen3Config, {**SIZES, "head_dim": 8, "tie_word_embeddings": True}),
    "starcoder2": (Starcoder2Config, SIZES),
    "gemma3": (
        Gemma3TextConfig, {**SIZES, "head_dim": 8, "sliding_window": 6, "layer_types": SLIDES},
    ),
    "neox": (GPTNeoXConfig, NEOX),
    "gpt2": (
        GPT2Config,
        {
            "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "attn_pdrop": 0.0,
            "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        },
    ),
}  # fmt: skip


def save_student(
    folder, family, tokenizer, *, dtype=torch.float32, vocab_size=VOCAB_SIZE, **changed
):
    """A model with random weights in a folder; its name, and the model."""
    kind, sizes = FAMILIES[family]
    torch.manual_seed(1)
    config = kind(**{**sizes, **changed}, vocab_size=vocab_size)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model


def student_of(source, reader, tokenizer, **recipe):
    """What a small recipe begins with."""
    return first_student(small_recipe(student=source, **recipe), reader, tokenizer)
