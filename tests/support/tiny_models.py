"""Tiny models and a tokenizer of bytes for evaluations."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from evaluation.config import GenerationSettings

EOS = 256


def byte_tokenizer():
    """A token for every byte, and end-of-text."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**vocab, "<|endoftext|>": EOS}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def tiny_gpt2(seed=0, positions=128, width=32):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=257,
        n_positions=positions,
        n_embd=width,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    return GPT2LMHeadModel(config).eval()


def settings(temperature=0.0, tokens=24, top_p=0.95, seed=0):
    return GenerationSettings(
        samples=1, temperature=temperature, top_p=top_p, max_new_tokens=tokens, seed=seed
    )


def save_tiny(folder, seed=0, **shape):
    tiny_gpt2(seed, **shape).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def gpt2(positions=512, vocab_size=384):
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=positions, n_embd=16, n_layer=1, n_head=2,
        initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()
