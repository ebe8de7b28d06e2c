"""One completion: what is asked for, how it grows, and what it has become."""

from dataclasses import dataclass
from typing import Any

import torch

from evaluation.config import GenerationSettings
from evaluation.generation.sampling import row_uniforms
from evaluation.generation.tokens import DECODING, decode_after, truncate_at_stop


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion to generate."""

    task_id: str
    sample: int
    prompt_ids: tuple[int, ...]
    stop: tuple[str, ...]
    begun: str = ""
    """What of the completion stands in the prompt already: a line's end, where it is one token
    with what is before it."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote, and why it ended there."""

    text: str
    """Without prompt, end-of-text, or anything from the first stop sequence on."""
    raw: str
    """All that was generated, behind what the request had begun, up to the token that completed a
    stop sequence, if one did."""
    finish: str
    """stop, eos, length, or prompt_too_long: no room for even one new token."""
    num_tokens: int
    """Tokens generated, those cut off again included."""


class Row:
    """One growing completion."""

    def __init__(
        self, place: int, request: Request, settings: GenerationSettings, limit: int | None
    ):
        room = settings.max_new_tokens
        if limit is not None:
            room = min(room, limit - len(request.prompt_ids))
        self.place, self.request, self.room = place, request, room
        self.token_ids: list[int] = []
        self.finish = "prompt_too_long" if room < 1 or not request.prompt_ids else None
        self.uniforms = row_uniforms(settings, request.task_id, request.sample, max(room, 0))
        # Every token decodes to at least one byte of the text.
        self.tail = max((len(stop.encode()) for stop in request.stop), default=0) + 4

    @property
    def uniform(self) -> torch.Tensor:
        """The random number of the next token; a row that has ended goes on, unread."""
        return self.uniforms[min(len(self.token_ids), self.room - 1)]

    def add(self, token_id: int, ends: frozenset[int], tokenizer: Any) -> None:
        if token_id in ends:
            self.finish = "eos"
            return
        self.token_ids.append(token_id)
        tail = tokenizer.decode(self.token_ids[-self.tail :], **DECODING)
        if len(self.token_ids) < self.tail:
            tail = self.request.begun + tail
        if any(stop in tail for stop in self.request.stop):
            self.finish = "stop"
        elif len(self.token_ids) == self.room:
            self.finish = "length"

    def completion(self, tokenizer: Any) -> Completion:
        written = decode_after(tokenizer, self.request.prompt_ids, self.token_ids)
        raw = self.request.begun + written
        assert self.finish is not None
        return Completion(
            text=truncate_at_stop(raw, self.request.stop),
            raw=raw,
            finish=self.finish,
            num_tokens=len(self.token_ids),
        )
