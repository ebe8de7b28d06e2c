"""A tiny, real teacher and its tokenizer."""

import json
from pathlib import Path

import torch

from tests.support.paths import EXAMPLES


def save_tokenizer(folder: Path, vocab_size: int = 384) -> None:
    """A byte-level BPE tokenizer trained on the example problems."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [json.loads(line)["code"] for line in EXAMPLES.read_text().splitlines()]
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)


def save_teacher(
    folder: Path, *, seed: int = 0, vocab_size: int = 384, num_layers: int = 2
) -> None:
    """A random Starcoder2 with peaked logits, of two layers or more, and its tokenizer."""
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    save_tokenizer(folder, vocab_size)
    torch.manual_seed(seed)
    config = Starcoder2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    Starcoder2ForCausalLM(config).save_pretrained(folder)
