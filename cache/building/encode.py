"""A batch of documents through the teacher: its encoded rows, slice by slice.

B batch, S positions, D width, N rows, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cache.data.documents import Document
from cache.errors import CacheError
from cache.targets.fidelity import NUM_MEASURES, SAMPLE_EVERY, measure_rows
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.teacher.teacher import Teacher

# Logits are made for as many rows as fit these bytes in fp32, and reduced in smaller slices,
# which a core's own cache holds with their temporaries: 10 rows of 49,152 logits took 0.36 ms a
# row on one thread, 32 rows 0.44 to 0.85 ms (by what else the machine did), 64 rows 1.0 ms.
HEAD_BYTES = {"cpu": 64 << 20, "accelerator": 512 << 20}
REDUCE_BYTES = {"cpu": 2 << 20, "accelerator": 512 << 20}

LogitSlice = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


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


@torch.inference_mode()
def logit_slices(teacher: Teacher, documents: Sequence[Document]) -> Iterator[LogitSlice]:
    """Slices of the documents' rows: logits (n, V), hidden states (n, D), gold ids (n,)."""
    rows = hidden_rows(teacher, documents)
    gold_ids = torch.cat([torch.from_numpy(d.token_ids[1:]) for d in documents]).to(rows.device)
    yield from head_slices(teacher.logits, rows, gold_ids, teacher.vocab_size)


@torch.inference_mode()
def hidden_rows(teacher: Teacher, documents: Sequence[Document]) -> torch.Tensor:
    """(N, D) final hidden states of the documents' rows, on the output head's device."""
    states = teacher.hidden(pad_documents(documents))  # (B, S, D)
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


def pad_documents(documents: Sequence[Document]) -> torch.Tensor:
    """(B, S) ids, padded on the right with the id 0: no row that is kept ever sees it."""
    longest = max(document.num_tokens for document in documents)
    input_ids = np.zeros((len(documents), longest), dtype=np.int64)
    for i, document in enumerate(documents):
        input_ids[i, : document.num_tokens] = document.token_ids
    return torch.from_numpy(input_ids)
