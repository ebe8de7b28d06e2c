"""Prompts to completions, many at once, with a key-value cache.

The loop is our own for four reasons: every row has its own random numbers, so a completion does
not depend on its neighbours in the batch; every row has its own limit of positions; a row can end
at a stop sequence in its text; and when rows have ended, waiting prompts take their places.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.config import GenerationSettings
from evaluation.generation.completion_rows import Completion, Request, Row
from evaluation.generation.decode_loop import REFILL_SHARE, DecodeLoop
from evaluation.generation.tokens import position_limit

__all__ = ["Completion", "Request", "generate", "generate_each"]


def generate(
    model: Any, tokenizer: Any, requests: Sequence[Request], settings: GenerationSettings
) -> list[Completion]:
    """Completions of the requests as one batch, in their order."""
    size = max(1, len(requests))
    done = dict(generate_each(model, tokenizer, requests, settings, batch_size=size))
    return [done[place] for place in range(len(requests))]


def generate_each(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *,
    batch_size: int,
) -> Iterator[tuple[int, Completion]]:
    """Each request's place and completion, the moment it ends.

    Requests start in their order, never more than `batch_size` of them run at once. With a
    key-value cache that holds every position, ended rows make room for waiting ones; with any
    other, a batch runs until all of its rows have ended.
    """
    limit = position_limit(model)
    rows = [Row(place, request, settings, limit) for place, request in enumerate(requests)]
    yield from ((row.place, row.completion(tokenizer)) for row in rows if row.finish is not None)
    waiting = deque(row for row in rows if row.finish is None)
    loop = DecodeLoop(model, tokenizer, settings)
    growing: list[Row] = []
    while waiting or loop.rows:
        free = batch_size - len(loop.rows)
        if waiting and (not loop.rows or free >= REFILL_SHARE * batch_size and loop.is_open):
            started = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            loop.start(started)
            growing += started
        else:
            loop.step()
        for row in growing:
            if row.finish is not None:
                yield row.place, row.completion(tokenizer)
        growing = [row for row in growing if row.finish is None]
        loop.drop_ended(batch_size)
