"""What tails share, fitted on the first rows of a build, or on any: a basis, or a head's unit."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from cache.data.documents import Document
from cache.machine.progress import counted_progress
from cache.targets.basis import BasisFit, TailBasis
from cache.targets.format import TargetFormat
from cache.targets.row_codec import OutputHead
from cache.teacher.rows import hidden_rows, logit_slices, plan_batches
from cache.teacher.teacher import Teacher, head_of

FIT_ROWS = 16384
HEAD_ROWS = 1024
"""Rows whose hidden states are looked at before they are stored in fp16."""
FitRows = tuple[torch.Tensor, torch.Tensor | None]
"""Hidden states (n, D), and their logits (n, V) where they are counted with them."""


def fit_basis(
    teacher: Teacher,
    documents: Iterable[Document],
    targets: TargetFormat,
    batch_tokens: int,
    num_rows: int = FIT_ROWS,
) -> TailBasis:
    """The basis of the first documents that together have `num_rows` rows.

    The same documents and batches give the same basis.

    Raises:
        CacheError: the rank exceeds the teacher's width, or logits are not finite.
    """
    chosen = with_rows(documents, num_rows)
    total = sum(d.num_rows for d in chosen)
    with counted_progress("fitting the tail's basis", first="running the teacher") as on_rows:
        rows = _teacher_rows(teacher, chosen, logits_every(total), batch_tokens)
        fit = collect_rows(head_of(teacher.model), rows, targets.top_k, total, on_rows)
    return finish_basis(fit, targets)


def fit_head(teacher: Teacher, documents: Iterable[Document], batch_tokens: int) -> OutputHead:
    """The output head beside hidden tails, for hidden states as large as the first documents'."""
    chosen, largest = with_rows(documents, HEAD_ROWS), 0.0
    for indices in plan_batches(chosen, batch_tokens):
        rows = hidden_rows(teacher, [chosen[i] for i in indices])
        largest = max(largest, float(rows.abs().max()))
    return head_of(teacher.model).reaching(largest)


def _teacher_rows(
    teacher: Teacher, documents: Sequence[Document], every: int, batch_tokens: int
) -> Iterator[FitRows]:
    with_logits = documents[::every]
    others = [document for i, document in enumerate(documents) if i % every]
    for indices in plan_batches(with_logits, batch_tokens):
        for logits, hidden, _ in logit_slices(teacher, [with_logits[i] for i in indices]):
            yield hidden, logits
    for indices in plan_batches(others, batch_tokens):
        yield hidden_rows(teacher, [others[i] for i in indices]), None


def logits_every(num_rows: int) -> int:
    """One document, or block of rows, of how many is counted with its logits.

    A row with them takes about as long as its forward pass at a vocabulary of 151,936; a thousand
    are enough.
    """
    return min(8, max(2, num_rows // 1024))


def collect_rows(
    head: OutputHead,
    rows: Iterable[FitRows],
    top_k: int,
    num_rows: int,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> BasisFit:
    """What a basis is fitted on: the rows, until there are `num_rows`.

    Args:
        head: the teacher's.
        rows: with and without logits.
        top_k: entries a row that are stored exactly.
        on_rows: called with how many rows were taken in, of how many.
    """
    fit = BasisFit(head.weight, head.bias)
    num_entries = min(top_k, len(head.weight))
    for hidden, logits in rows:
        if logits is None:
            fit.add_hidden(hidden)
        else:
            fit.add(hidden, logits, logits.topk(num_entries, dim=-1).indices)
        on_rows(fit.num_rows, num_rows)
        if fit.num_rows >= num_rows:
            break
    return fit


def finish_basis(fit: BasisFit, targets: TargetFormat) -> TailBasis:
    """The basis of a target format, of the teacher's width at most.

    Raises:
        CacheError: logits were not finite.
    """
    return fit.finish(min(targets.tail_rank, fit.width), targets.tail_bytes)


def with_rows(documents: Iterable[Document], num_rows: int) -> list[Document]:
    """The first documents that together have so many rows, or all."""
    chosen, total = [], 0
    for document in documents:
        if total >= num_rows:
            break
        chosen.append(document)
        total += document.num_rows
    return chosen
