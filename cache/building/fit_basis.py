"""Fitting the basis of a lowrank tail on the first rows of a build."""

from collections.abc import Iterable

from cache.data.documents import Document
from cache.machine.progress import counted_progress
from cache.targets.basis import BasisFit, TailBasis
from cache.targets.format import TargetFormat
from cache.teacher.rows import logit_slices, plan_batches
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
    chosen: list[Document] = []
    for document in documents:
        if sum(d.num_rows for d in chosen) >= num_rows:
            break
        chosen.append(document)
    head = head_of(teacher.model)
    fit = BasisFit(head.weight, head.bias)
    num_entries = min(targets.top_k, teacher.vocab_size)
    total = sum(d.num_rows for d in chosen)
    with counted_progress("fitting the tail's basis", first="running the teacher") as on_row:
        for indices in plan_batches(chosen, batch_tokens):
            for logits, hidden, _ in logit_slices(teacher, [chosen[i] for i in indices]):
                fit.add(hidden, logits, logits.topk(num_entries, dim=-1).indices)
                on_row(fit.num_rows, total)
    rank = min(targets.tail_rank, head.weight.shape[1])
    return fit.finish(rank, targets.tail_bytes)
