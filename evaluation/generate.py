"""Batches of prompts to completions, with a key-value cache.

The loop is our own for three reasons: every row has its own random numbers, so a completion
does not depend on its neighbours in the batch; every row has its own limit of positions; and a
row can end at a stop sequence in its text.

B batch, S positions of the padded prompts, V vocabulary.
"""

import hashlib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evaluation.config import GenerationSettings

# Sorting a few tokens is much cheaper than the whole vocabulary, and nearly always enough.
NUCLEUS_GUESS = 256
DECODING: dict[str, Any] = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to generate."""

    task_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    stop: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote, and why it ended there."""

    text: str
    """Without prompt, end-of-text, or anything from the first stop sequence on."""
    finish: str
    """stop, eos, length, or prompt_too_long: no room for even one new token."""
    num_tokens: int
    """Tokens generated, those cut off again included."""


def position_limit(model: Any) -> int | None:
    """Most positions the model can take; None where its configuration names no limit."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else None
    for name in ("max_position_embeddings", "n_positions"):
        limit = getattr(config or model.config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


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
    """Token ids of a prompt, without special tokens, as the students are trained."""
    return tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def truncate_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first stop sequence."""
    ends = [index for index in map(text.find, stop) if index >= 0]
    return text[: min(ends)] if ends else text


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, requests: Sequence[Request], settings: GenerationSettings
) -> list[Completion]:
    """Completions of the requests as one batch, in their order."""
    limit = position_limit(model)
    rows = [_Row(request, settings, limit) for request in requests]
    running = [row for row in rows if row.finish is None]
    if running:
        _decode(model, tokenizer, running, settings)
    return [row.completion(tokenizer) for row in rows]


class _Row:
    """One growing completion."""

    def __init__(self, request: Request, settings: GenerationSettings, limit: int | None):
        room = settings.max_new_tokens
        if limit is not None:
            room = min(room, limit - len(request.prompt_ids))
        self.request = request
        self.room = room
        self.token_ids: list[int] = []
        self.finish = "prompt_too_long" if room < 1 or not request.prompt_ids else None
        # Every token decodes to at least one byte of the text.
        self.tail = max((len(stop.encode()) for stop in request.stop), default=0) + 4

    def add(self, token_id: int, ends: frozenset[int], tokenizer: Any) -> None:
        if token_id in ends:
            self.finish = "eos"
            return
        self.token_ids.append(token_id)
        tail = tokenizer.decode(self.token_ids[-self.tail :], **DECODING)
        if any(stop in tail for stop in self.request.stop):
            self.finish = "stop"
        elif len(self.token_ids) == self.room:
            self.finish = "length"

    def completion(self, tokenizer: Any) -> Completion:
        text = _decode_after(tokenizer, self.request.prompt_ids, self.token_ids)
        assert self.finish is not None
        return Completion(
            text=truncate_at_stop(text, self.request.stop),
            finish=self.finish,
            num_tokens=len(self.token_ids),
        )


def _decode_after(tokenizer: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """Text of the new tokens; decoded with the prompt, so a leading space survives."""
    prompt = tokenizer.decode(list(prompt_ids), **DECODING)
    whole = tokenizer.decode([*prompt_ids, *token_ids], **DECODING)
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    return tokenizer.decode(list(token_ids), **DECODING)


def _decode(model: Any, tokenizer: Any, rows: list[_Row], settings: GenerationSettings) -> None:
    device = model.get_input_embeddings().weight.device
    ids, mask = left_pad([row.request.prompt_ids for row in rows], padding_id(tokenizer))
    ids, mask = ids.to(device), mask.to(device)  # (B, S)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    steps = max(row.room for row in rows)
    uniforms = _uniforms(rows, settings, steps).to(device)  # (B, steps)
    ends = end_ids(model, tokenizer)
    options = _forward_options(model)
    last = (position_limit(model) or 1 << 30) - 1
    cache = None
    for step in range(steps):
        if "position_ids" in options:
            options["position_ids"] = positions.clamp(max=last)  # rows that ended go on, unread
        output = model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        cache = output.past_key_values
        chosen = choose(output.logits[:, -1].float(), settings, uniforms[:, step])  # (B,)
        for row, token_id in zip(rows, chosen.tolist(), strict=True):
            if row.finish is None:
                row.add(token_id, ends, tokenizer)
        if all(row.finish is not None for row in rows):
            return
        ids = chosen.unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        positions = positions[:, -1:] + 1


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both (B, S) int64; prompts end at the last column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, width - len(prompt) :] = torch.tensor(prompt)
        mask[index, width - len(prompt) :] = 1
    return ids, mask


def _forward_options(model: Any) -> dict[str, Any]:
    """Arguments that only some models take: positions, and the logits of the last one alone."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "position_ids" in accepted:
        options["position_ids"] = None
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = 1
    return options


def _uniforms(rows: list[_Row], settings: GenerationSettings, steps: int) -> torch.Tensor:
    """Random numbers in [0, 1), (B, steps), each row's from the seed, its task and its sample.

    They are drawn on the CPU, so that the same seed means the same numbers on every device.
    """
    if settings.temperature == 0:
        return torch.zeros(len(rows), steps)
    numbers = []
    for row in rows:
        key = f"{settings.seed}|{row.request.task_id}|{row.request.sample}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:7], "big")
        numbers.append(torch.rand(steps, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(numbers)


def choose(
    logits: torch.Tensor, settings: GenerationSettings, uniforms: torch.Tensor
) -> torch.Tensor:
    """Next token ids (B,): the most likely, or by inverting the nucleus's cumulative sum.

    Args:
        logits: (B, V) float32.
        uniforms: (B,) in [0, 1); unused when the temperature is 0.

    Source: Holtzman et al. 2020, section 3.1 (nucleus sampling).
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    all_probs = torch.softmax(logits / settings.temperature, -1)
    for size in (NUCLEUS_GUESS, all_probs.shape[-1]):
        probs, order = all_probs.topk(min(size, all_probs.shape[-1]), dim=-1)
        cumulative = probs.cumsum(-1)
        if bool((cumulative[:, -1] >= settings.top_p).all()):
            break  # the nucleus of every row is inside
    inside = cumulative - probs < settings.top_p  # (B, V): the first token always is
    num_inside = inside.sum(-1, keepdim=True)
    mass = cumulative.gather(-1, num_inside - 1)
    rank = (cumulative <= uniforms.unsqueeze(-1) * mass).sum(-1, keepdim=True)
    return order.gather(-1, torch.minimum(rank, num_inside - 1)).squeeze(-1)
