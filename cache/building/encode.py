"""A batch of documents through the teacher: its encoded rows, slice by slice.

B batch, S positions, D width, N rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cache.data.documents import Document
from cache.errors import CacheError
from cache.targets.fidelity import NUM_MEASURES, measure_rows, require_numbers, sampled_rows
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.teacher.rows import logit_slices, reduce_slices
from cache.teacher.teacher import Teacher


@dataclass(frozen=True, kw_only=True, eq=False)
class ComputedRows:
    """Encoded rows of a batch and the fidelity of some of them, still on the device."""

    slices: list[EncodedRows]
    fidelity: list[torch.Tensor]

    def to_arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows end to end and (F, measures) fidelity, in host memory; waits for the device.

        Raises:
            CacheError: rows cannot be decoded again.
        """
        rows = {
            name: torch.cat([part[name] for part in self.slices]).cpu().numpy()
            for name in self.slices[0]
        }
        if not self.fidelity:
            return rows, np.zeros((0, NUM_MEASURES), np.float32)
        fidelity = torch.cat(self.fidelity).cpu().numpy()
        require_numbers(fidelity)
        return rows, fidelity


def compute_rows(teacher: Teacher, documents: Sequence[Document], codec: RowCodec) -> ComputedRows:
    """Encoded rows of the documents, in their order.

    They stay on the teacher's device, so that a caller may fetch them while the next batch runs.

    Raises:
        CacheError: logits are not finite; the documents of the batch are named.
    """  # fmt: skip
    slices, measured_rows, measured_logits = [], [], []
    sample = sampled_rows(documents[0].task_id, sum(d.num_rows for d in documents))
    first_row = 0
    # Draws of a sampled tail depend on the documents alone, not on what was computed before.
    generator = torch.Generator(teacher.head.weight.device)
    generator.manual_seed(documents[0].task_id)
    try:
        for logits, hidden, gold_ids in reduce_slices(logit_slices(teacher, documents)):
            rows = codec.encode(logits, hidden, gold_ids, generator)
            slices.append(rows)
            here = [i - first_row for i in sample if 0 <= i - first_row < len(logits)]
            if here:
                measured_rows.append({name: part[here] for name, part in rows.items()})
                measured_logits.append(logits[here])
            first_row += len(logits)
    except CacheError as error:
        names = ", ".join(str(d.task_id) for d in documents)
        raise CacheError(
            f"{error}; batch of task_id {names}.\n"
            "The teacher is broken or overflows in this precision: try --dtype bf16 or fp32."
        ) from error
    fidelity = []
    if measured_rows:  # decoded together: a tail's map is read once a batch, not once a slice
        together = {
            name: torch.cat([rows[name] for rows in measured_rows]) for name in measured_rows[0]
        }
        fidelity = [measure_rows(torch.cat(measured_logits), codec.decode(together))]
    return ComputedRows(slices=slices, fidelity=fidelity)
