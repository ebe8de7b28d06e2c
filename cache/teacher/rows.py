"""Documents through the teacher: hidden states, and logits slice by slice.

B batch, S positions, D width, N rows, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from cache.data.documents import Document
from cache.teacher.teacher import Teacher

# Logits are made for as many rows as fit these bytes in fp32, and reduced in smaller slices,
# which a core's own cache holds with their temporaries: 10 rows of 49,152 logits took 0.36 ms a
# row on one thread, 32 rows 0.44 to 0.85 ms (by what else the machine did), 64 rows 1.0 ms.
HEAD_BYTES = {"cpu": 64 << 20, "accelerator": 512 << 20}
REDUCE_BYTES = {"cpu": 2 << 20, "accelerator": 512 << 20}
LogitSlice = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@torch.inference_mode()
def logit_slices(teacher: Teacher, documents: Sequence[Document]) -> Iterator[LogitSlice]:
    """Slices of the documents' rows: logits (n, V), hidden states (n, D), gold ids (n,)."""
    rows = hidden_rows(teacher, documents)
    gold_ids = torch.cat([torch.from_numpy(d.token_ids[1:]) for d in documents]).to(rows.device)
    yield from head_slices(teacher.logits, rows, gold_ids, teacher.vocab_size)


@torch.inference_mode()
def hidden_rows(teacher: Teacher, documents: Sequence[Document]) -> torch.Tensor:
    """(N, D) final hidden states of the documents' rows, on the output head's device."""
    states = teacher.hidden(pad_documents(documents), pad_positions(documents))  # (B, S, D)
    rows = torch.cat([states[i, : d.num_rows] for i, d in enumerate(documents)])
    return rows.to(teacher.head.weight.device)


def head_slices(
    head: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    gold_ids: torch.Tensor,
    vocab_size: int,
) -> Iterator[LogitSlice]:
    """As `logit_slices`, of hidden states (N, D) that are there; `head` makes their logits."""
    size = _slice_rows(HEAD_BYTES, rows, vocab_size)
    for hidden, gold in zip(rows.split(size), gold_ids.split(size), strict=True):
        yield head(hidden), hidden, gold


def reduce_slices(slices: Iterable[LogitSlice]) -> Iterator[LogitSlice]:
    """Slices in such pieces as elementwise work goes through best."""
    for large in slices:
        size = _slice_rows(REDUCE_BYTES, large[0], large[0].shape[-1])
        yield from zip(*(tensor.split(size) for tensor in large), strict=True)


def _slice_rows(budget: dict[str, int], rows: torch.Tensor, vocab_size: int) -> int:
    kind = "cpu" if rows.device.type == "cpu" else "accelerator"
    return max(1, budget[kind] // (4 * vocab_size))


def pad_positions(documents: Sequence[Document]) -> torch.Tensor | None:
    """(B, S) positions of isolated texts, going on into padding; None where none is isolated."""
    if not any(document.isolated for document in documents):
        return None
    longest = max(document.num_tokens for document in documents)
    positions = np.empty((len(documents), longest), dtype=np.int64)
    for own, document in zip(positions, documents, strict=True):
        own[: document.num_tokens] = document.positions
        rest = longest - document.num_tokens
        own[document.num_tokens :] = own[document.num_tokens - 1] + 1 + np.arange(rest)
    return torch.from_numpy(positions)


def pad_documents(documents: Sequence[Document]) -> torch.Tensor:
    """(B, S) ids, padded on the right with the id 0: no row that is kept ever sees it."""
    longest = max(document.num_tokens for document in documents)
    input_ids = np.zeros((len(documents), longest), dtype=np.int64)
    for i, document in enumerate(documents):
        input_ids[i, : document.num_tokens] = document.token_ids
    return torch.from_numpy(input_ids)


def plan_batches(documents: Sequence[Document], batch_tokens: int) -> list[list[int]]:
    """Indices of documents, grouped by length so that a padded batch holds `batch_tokens`.

    A document longer than that gets a batch of its own.
    """
    order = sorted(range(len(documents)), key=lambda i: (documents[i].num_tokens, i))
    batches: list[list[int]] = []
    for index in order:
        longest = documents[index].num_tokens  # lengths ascend
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
