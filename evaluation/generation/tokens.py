"""Texts to token ids and back, and what a model and its tokenizer allow.

B batch, S positions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from cache.data.tokenise import encode, prefix_of
from cache.teacher.teacher import max_positions_of

DECODING: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


def position_limit(model: Any) -> int | None:
    """Most positions the model can take; None where its configuration names no limit."""
    return max_positions_of(model)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a text: the tokenizer's and those of the generation settings."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [named] if isinstance(named, int) else list(named or ())
    return frozenset(i for i in [tokenizer.eos_token_id, *ids] if i is not None)


def padding_id(tokenizer: Any) -> int:
    """Id that fills masked positions; which one does not matter, it only has to exist."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def encode_prompt(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """Token ids of a prompt, begun as the tokenizer begins texts: as teacher and students do."""
    return (*prefix_of(tokenizer), *encode(tokenizer, prompt, parse_special=False))


def truncate_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first stop sequence."""
    ends = [index for index in map(text.find, stop) if index >= 0]
    return text[: min(ends)] if ends else text


def decode_after(tokenizer: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """Text of the new tokens; decoded with the prompt, so a leading space survives."""
    prompt = tokenizer.decode(list(prompt_ids), **DECODING)
    whole = tokenizer.decode([*prompt_ids, *token_ids], **DECODING)
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    return tokenizer.decode(list(token_ids), **DECODING)


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both (B, S) int64; prompts end at the last column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, width - len(prompt) :] = torch.tensor(prompt)
        mask[index, width - len(prompt) :] = 1
    return ids, mask
