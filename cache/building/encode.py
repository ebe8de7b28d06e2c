"""A batch of documents through the teacher: its encoded rows, slice by slice.

B batch, S positions, D width, N rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cache.data.documents import Document
from cache.errors import CacheError
from cache.targets.fidelity import NUM_MEASURES, SAMPLE_EVERY, measure_rows
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.teacher.rows import logit_slices, reduce_slices
from cache.teacher.teacher import Teacher


@dataclass(frozen=True, kw_only=True, eq=False)
class ComputedRows:
    """Encoded rows of a batch and the fidelity of some of them, still on the device."""

    slices: list[EncodedRows]
    fidelity: list[torch.Tensor]

    def to_arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows end to end and (F, measures) fidelity, in host memory; waits for the device."""
        rows = {
            name: torch.cat([part[name] for part in self.slices]).cpu().numpy()
            for name in self.slices[0]
        }
        if not self.fidelity:
            return rows, np.zeros((0, NUM_MEASURES), np.float32)
        return rows, torch.cat(self.fidelity).cpu().numpy()


def compute_rows(teacher: Teacher, documents: Sequence[Document], codec: RowCodec) -> ComputedRows:
    """Encoded rows of the documents, in their order.

    They stay on the teacher's device, so that a caller may fetch them while the next batch runs.

    Raises:
        CacheError: logits are not finite; the documents of the batch are named.
    """  # fmt: skip
    slices, sampled_rows, sampled_logits = [], [], []
    first_row = 0
    # Draws of a sampled tail depend on the documents alone, not on what was computed before.
    generator = torch.Generator(teacher.head.weight.device)
    generator.manual_seed(documents[0].task_id)
    try:
        for logits, hidden, gold_ids in reduce_slices(logit_slices(teacher, documents)):
            rows = codec.encode(logits, hidden, gold_ids, generator)
            slices.append(rows)
            sample = list(range(-first_row % SAMPLE_EVERY, len(logits), SAMPLE_EVERY))
            if sample:
                sampled_rows.append({name: part[sample] for name, part in rows.items()})
                sampled_logits.append(logits[sample])
            first_row += len(logits)
    except CacheError as error:
        names = ", ".join(str(d.task_id) for d in documents)
        raise CacheError(
            f"{error}; batch of task_id {names}.\n"
            "The teacher is broken or overflows in this precision: try --dtype bf16 or fp32."
        ) from error
    fidelity = []
    if sampled_rows:  # decoded together: a tail's map is read once a batch, not once a slice
        together = {
            name: torch.cat([rows[name] for rows in sampled_rows]) for name in sampled_rows[0]
        }
        fidelity = [measure_rows(torch.cat(sampled_logits), codec.decode(together))]
    return ComputedRows(slices=slices, fidelity=fidelity)
