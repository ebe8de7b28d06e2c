"""The documents that a page shows: their tokens, and the row that predicts each.

N tokens, R rows (one for every token but a document's first), K cached entries a row.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache.errors import CacheError
from cache.reading.reader import CacheReader

MOST_DOCUMENTS = 40
REPORTED = ("entropy", "gold_logprob", "gold_rank")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Documents end to end, without their tails."""

    split: str
    numbers: np.ndarray
    """(D,) int64: of each document in its split."""
    task_ids: np.ndarray
    """(D,) int64."""
    token_ids: np.ndarray
    """(N,) int64."""
    offsets: np.ndarray
    """(D + 1,) int64: document i is token_ids[offsets[i] : offsets[i + 1]]."""
    by_assistant: np.ndarray
    """(N,) bool: written by the assistant, or completing a prompt, or a corpus' text."""
    begins: np.ndarray
    """(N,) bool: first of a text."""
    isolated: bool
    """Whether texts of one document do not see each other."""
    topk_ids: np.ndarray
    """(R, K) int64."""
    topk_logprobs: np.ndarray
    """(R, K) float32, nats at T = 1; -inf in entries a row does not use."""
    entropy: np.ndarray
    """(R,) float32, nats."""
    gold_logprob: np.ndarray
    """(R,) float32, nats: what the teacher gave the token that follows."""
    gold_rank: np.ndarray
    """(R,) int64: how many tokens it found more probable."""

    @cached_property
    def places(self) -> np.ndarray:
        """(R,) int64: the token that each row predicts; the one before it is the last it saw."""
        has_row = np.ones(len(self.token_ids), dtype=bool)
        has_row[self.offsets[:-1]] = False
        return np.flatnonzero(has_row)

    @cached_property
    def document_of(self) -> np.ndarray:
        """(N,) int64: the document of each token, from 0."""
        return np.repeat(np.arange(len(self.task_ids)), np.diff(self.offsets))

    @cached_property
    def counts(self) -> np.ndarray:
        """(N,) bool: what the loss falls on. The first of an isolated text has no past."""
        counts = self.by_assistant & ~self.begins if self.isolated else self.by_assistant.copy()
        counts[self.offsets[:-1]] = False
        return counts

    def rows_of(self, document: int) -> slice:
        """Rows of a document."""
        start, stop = self.offsets[document : document + 2] - [document, document + 1]
        return slice(int(start), int(stop))

    def tokens_of(self, document: int) -> slice:
        """Tokens of a document."""
        return slice(*self.offsets[document : document + 2].tolist())


def read_shown(reader: CacheReader, split: str, *, first: int = 0, count: int = 8) -> Shown:
    """`count` documents of a split from the one numbered `first`, or as many as there are.

    One is decoded at a time: tails of many long documents would fill the memory.

    Raises:
        CacheError: no such split or document, or more documents than a page shows.
    """
    if not 1 <= count <= MOST_DOCUMENTS:
        raise CacheError(
            f"documents is {count}; a page shows 1 to {MOST_DOCUMENTS}. Give the number of "
            "the first with --document to see later ones."
        )
    stop = min(first + count, reader.num_documents(split))
    numbers = list(range(first, stop)) or [first]  # which the reader refuses by name
    parts = [_arrays_of(reader, split, number) for number in numbers]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    lengths = [len(part["token_ids"]) for part in parts]
    return Shown(
        split=split,
        numbers=np.array(numbers),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        isolated=reader.identity.texts.isolated,
        **joined,
    )


def _arrays_of(reader: CacheReader, split: str, number: int) -> dict[str, np.ndarray]:
    documents = reader.read(split, [number])
    reported = {name: reader.read_rows(split, [number], name) for name in REPORTED}
    return {
        "task_ids": documents.task_ids,
        "token_ids": documents.token_ids,
        "by_assistant": documents.by_assistant,
        "begins": documents.begins_text,
        "topk_ids": documents.targets.topk_ids.numpy(),
        "topk_logprobs": documents.targets.topk_logprobs.numpy(),
        "entropy": reported["entropy"].astype(np.float32),
        "gold_logprob": reported["gold_logprob"].astype(np.float32),
        "gold_rank": reported["gold_rank"].astype(np.int64),
    }
