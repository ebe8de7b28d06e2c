"""Fitting the basis of a lowrank tail: on the first rows of a build, or on any."""

from collections.abc import Callable, Iterable

from cache.data.documents import Document
from cache.machine.progress import counted_progress
from cache.targets.basis import BasisFit, TailBasis
from cache.targets.format import TargetFormat
from cache.targets.row_codec import OutputHead
from cache.teacher.rows import LogitSlice, logit_slices, plan_batches
from cache.teacher.teacher import Teacher, head_of

FIT_ROWS = 8192


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
    slices = (
        piece
        for indices in plan_batches(chosen, batch_tokens)
        for piece in logit_slices(teacher, [chosen[i] for i in indices])
    )
    total = sum(d.num_rows for d in chosen)
    with counted_progress("fitting the tail's basis", first="running the teacher") as on_rows:
        fit = collect_rows(head_of(teacher.model), slices, targets.top_k, total, on_rows)
    return finish_basis(fit, targets)


def collect_rows(
    head: OutputHead,
    slices: Iterable[LogitSlice],
    top_k: int,
    num_rows: int,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> BasisFit:
    """What a basis is fitted on: the rows of the slices, until there are `num_rows`.

    Args:
        head: the teacher's.
        slices: logits and hidden states; what stands beside them does not matter.
        top_k: entries a row that are stored exactly.
        on_rows: called with how many rows were taken in, of how many.
    """
    fit = BasisFit(head.weight, head.bias)
    num_entries = min(top_k, len(head.weight))
    for logits, hidden, _ in slices:
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
