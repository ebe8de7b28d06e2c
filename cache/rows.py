"""A batch of documents through the teacher: its soft targets, slice by slice.

B batch, S positions, D width, N rows, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
import torch

from cache.documents import Document
from cache.errors import CacheError
from cache.targets import TargetRows, compute_targets
from cache.teacher import Teacher

# Logits are made for as many rows as fit these bytes in fp32, and reduced in smaller slices
# where a cache of the CPU holds them: 32 rows of 49,152 logits took a third of the time of 128.
HEAD_BYTES = {"cpu": 64 << 20, "accelerator": 512 << 20}
REDUCE_BYTES = {"cpu": 6 << 20, "accelerator": 512 << 20}


def compute_rows(teacher: Teacher, documents: Sequence[Document], top_k: int) -> list[TargetRows]:
    """Soft targets of the documents, in their order, as slices to be joined end to end.

    The slices stay on the teacher's device, so that a caller may fetch them while the next
    batch runs.

    Raises:
        CacheError: logits are not finite; the documents of the batch are named.
    """
    hidden = teacher.hidden(pad_documents(documents))  # (B, S, D)
    rows = torch.cat([hidden[i, : d.num_rows] for i, d in enumerate(documents)])  # (N, D)
    gold_ids = torch.cat([torch.from_numpy(d.token_ids[1:]) for d in documents])
    try:
        return [
            compute_targets(logits, gold.to(logits.device), top_k)
            for logits, gold in _logit_slices(teacher, rows, gold_ids)
        ]
    except CacheError as error:
        names = ", ".join(str(d.task_id) for d in documents)
        raise CacheError(
            f"{error}; batch of task_id {names}.\n"
            "The teacher is broken or overflows in this precision: try --dtype bf16 or fp32."
        ) from error


def pad_documents(documents: Sequence[Document]) -> torch.Tensor:
    """(B, S) ids, padded on the right with the id 0: no row that is kept ever sees it."""
    longest = max(document.num_tokens for document in documents)
    input_ids = np.zeros((len(documents), longest), dtype=np.int64)
    for i, document in enumerate(documents):
        input_ids[i, : document.num_tokens] = document.token_ids
    return torch.from_numpy(input_ids)


@torch.inference_mode()
def _logit_slices(
    teacher: Teacher, rows: torch.Tensor, gold_ids: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    kind = "cpu" if rows.device.type == "cpu" else "accelerator"
    row_bytes = 4 * teacher.vocab_size
    head_rows = max(1, HEAD_BYTES[kind] // row_bytes)
    reduce_rows = max(1, REDUCE_BYTES[kind] // row_bytes)
    for hidden, gold in zip(rows.split(head_rows), gold_ids.split(head_rows), strict=True):
        logits = teacher.logits(hidden)
        yield from zip(logits.split(reduce_rows), gold.split(reduce_rows), strict=True)


def join_rows(slices: Sequence[TargetRows]) -> dict[str, np.ndarray]:
    """Slices end to end as arrays in host memory; waits for the device."""
    return {
        field.name: torch.cat([getattr(part, field.name) for part in slices]).cpu().numpy()
        for field in fields(TargetRows)
    }
