"""What a cache holds, in numbers and in an example that can be read."""

from dataclasses import dataclass

import numpy as np

from cache.reading.reader import CacheReader

SAMPLE_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class ExampleToken:
    """One row, readable."""

    token: str
    """The token that stands in the document."""
    logprob: float
    """What the teacher gave it, in nats."""
    top: tuple[tuple[str, float], ...]
    """The teacher's most probable tokens and their probabilities at T = 1."""


def mean_teacher_loss(reader: CacheReader, split: str) -> float:
    """The teacher's own cross-entropy on a sample of a split's documents, nats a token."""
    indices = _sample_documents(reader, split)
    return -float(reader.read_rows(split, indices, "gold_logprob").astype(np.float64).mean())


def example_tokens(
    reader: CacheReader, tokenizer, split: str, document: int, *, first: int, count: int, top: int
) -> list[ExampleToken]:
    """`count` tokens of a document's completion, from `first`, with the teacher's top tokens."""
    documents = reader.read(split, [document])
    gold = reader.read_rows(split, [document], "gold_logprob")
    start = int(documents.prompt_lengths[0]) - 1 + first  # the row that predicts this token
    rows = range(start, min(start + count, documents.targets.num_rows))
    examples = []
    for row in rows:
        ids = documents.targets.topk_ids[row, :top].tolist()
        probs = documents.targets.topk_logprobs[row, :top].exp().tolist()
        examples.append(
            ExampleToken(
                token=tokenizer.decode([int(documents.token_ids[row + 1])]),
                logprob=float(gold[row]),
                top=tuple((tokenizer.decode([i]), p) for i, p in zip(ids, probs, strict=True)),
            )
        )
    return examples


def _sample_documents(reader: CacheReader, split: str) -> list[int]:
    """Documents from the start of a split that hold up to SAMPLE_ROWS rows."""
    lengths = np.cumsum(reader.document_lengths(split))
    return list(range(max(1, int(np.searchsorted(lengths, SAMPLE_ROWS)))))
