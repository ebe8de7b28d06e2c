"""Texts to token ids and back, and what a model and its tokenizer allow.

B batch, S positions.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from cache.data.tokenise import as_tokens_part, encode, prefix_of
from cache.teacher.teacher import max_positions_of

# Nothing is left out: a token dropped from the middle of a text would join what it parted.
DECODING: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
# How tokenizers write marks of documents and chats that they do not call special (Qwen, DeepSeek).
_MARK = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)


def position_limit(model: Any) -> int | None:
    """Most positions the model can take; None where its configuration names no limit."""
    return max_positions_of(model)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a text.

    Those of the generation settings, every special token (a code model goes on after a file
    with `<file_sep>`, which is no end-of-text), marks such as `<|file_sep|>`, and ids that stand
    for no text at all: a vocabulary padded to a round number has some.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = {named} if isinstance(named, int) else set(named or ())
    ids |= {tokenizer.eos_token_id, *tokenizer.all_special_ids}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special or _MARK.fullmatch(token.content):
            ids.add(token_id)
    size = model.get_input_embeddings().weight.shape[0]
    ids |= set(range(size)) - set(tokenizer.get_vocab().values())
    return frozenset(ids - {None})


def padding_id(tokenizer: Any) -> int:
    """Id that fills masked positions; which one does not matter, it only has to exist."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def encode_prompt(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """Token ids of a prompt, begun as the tokenizer begins texts: as teacher and students do."""
    return (*prefix_of(tokenizer), *encode(tokenizer, prompt, parse_special=False))


def encode_opening(tokenizer: Any, prompt: str, opening: str) -> tuple[tuple[int, ...], str]:
    """Ids of a prompt as `encode_prompt`, and what of its answers stands in them already.

    Args:
        opening: the line's end that all answers begin with, or nothing. It is asked with where the
            tokenizer makes one token of it and the prompt's end: see `as_tokens_part`.
    """
    asked, _ = as_tokens_part(tokenizer, prompt, f"{opening}    return")
    return encode_prompt(tokenizer, asked), asked.removeprefix(prompt)


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


def why_other_tokens(sizes: tuple[int, int], tokenizers: tuple[Any, Any], whose: str) -> str | None:
    """Why the token ids of one side are not the other's; None where they are.

    Args:
        sizes: of the vocabularies, the model's own first.
        tokenizers: in the same order.
        whose: the other side, for the sentence: `the teacher's`.
    """
    if sizes[0] != sizes[1]:
        return f"its vocabulary has {sizes[0]:,} tokens and {whose} {sizes[1]:,}"
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        return f"its tokenizer gives the token ids another meaning than {whose}"
    return None
