"""Which prompts a student completes at each validation, and what stands behind them."""

from dataclasses import dataclass

import numpy as np

from cache.reading.reader import CachedDocuments, CacheReader
from distill.batches.epochs import VALIDATION, evenly_spaced_documents

MAX_NEW_TOKENS = 64
"""Of a completion, and of the reference beside it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """The beginning of a document, and the document's own words after it."""

    task_id: int
    prompt_ids: np.ndarray
    """(num_tokens,) int64, at least one."""
    reference_ids: np.ndarray
    """(num_tokens,) int64: the first MAX_NEW_TOKENS of what follows."""


def read_prompts(reader: CacheReader, count: int) -> list[Prompt]:
    """Prompts of so many documents of the validation split, evenly spaced over it; none without
    such a split.

    A document of a corpus has no prompt: the first half of its first text is taken for one.
    """
    if VALIDATION not in reader.splits:
        return []
    chosen = evenly_spaced_documents(reader.num_documents(VALIDATION), count)
    return [_prompt(reader.read(VALIDATION, [index])) for index in chosen.tolist()]


def _prompt(document: CachedDocuments) -> Prompt:
    ids, length = document.token_ids, int(document.prompt_lengths[0])
    if length <= 1:
        begins = np.flatnonzero(document.begins_text[1:])
        ids = ids[: begins[0] + 1] if len(begins) else ids
        length = max(1, len(ids) // 2)
    return Prompt(
        task_id=int(document.task_ids[0]),
        prompt_ids=ids[:length],
        reference_ids=ids[length : length + MAX_NEW_TOKENS],
    )
