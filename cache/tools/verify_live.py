"""Checking a cache against its teacher: some documents are run again and compared row by row.

Checksums prove that a cache is what was written; this proves that what was written is what the
teacher says. N rows, D width.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache.errors import CacheError
from cache.machine.progress import BuildProgress
from cache.reading.reader import CacheReader
from cache.teacher.load import load_causal_lm
from cache.teacher.teacher import Teacher
from cache.tools.live_rows import (
    FLOOR_NATS,
    RowComparison,
    StoredRows,
    compare_rows,
    teacher_dtype,
)

QUANTITIES = ("topk_logprobs", "gold_logprob", "entropy")
SLICE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class LiveFault:
    """The worst row of a document in one quantity that the teacher does not confirm."""

    split: str
    index: int
    """Of the document in its split."""
    task_id: int
    row: int
    """Of the document: the distribution over its token `row + 1`."""
    quantity: str
    stored: float
    live: float
    tolerance: float
    num_rows: int
    """Rows of the document beyond the tolerance in this quantity."""

    def __str__(self) -> str:
        return (
            f"{self.split} document {self.index} (task_id {self.task_id}), row {self.row}: "
            f"{self.quantity} is {self.stored:.4f}, the teacher says {self.live:.4f}; "
            f"{self.tolerance:.4f} nats are allowed ({self.num_rows} such rows)"
        )


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """How far a cache's rows are from what its teacher says now, in nats."""

    documents: int
    rows: int
    largest_differences: dict[str, float]
    """By quantity, the largest absolute difference; of a row's top-k, the entry counts that is
    furthest beyond its tolerance, or closest to it."""
    tolerances: dict[str, float]
    """By quantity, what is allowed where that difference stands."""
    faults: tuple[LiveFault, ...]

    def lines(self) -> list[str]:
        """The report as text."""
        return [
            f"The teacher ran again on {self.documents} documents ({self.rows:,} rows).",
            *(
                f"  {name}: largest difference {self.largest_differences[name]:.2g} nats, "
                f"{self.tolerances[name]:.2g} allowed there"
                for name in QUANTITIES
            ),
            *(str(fault) for fault in self.faults),
        ]


def verify_live(
    directory: Path,
    *,
    num_documents: int,
    seed: int,
    teacher: str | None = None,
    device_map: str | None = "auto",
) -> LiveReport:
    """Run the teacher on random documents of a cache and compare; see `compare_rows`.

    Args:
        directory: a complete cache.
        num_documents: how many, from all splits; all of them if there are fewer.
        seed: of the choice.
        teacher: hub id, folder or .gguf file; by default the name that the cache was built with.
        device_map: as in transformers.

    Raises:
        CacheError: the cache cannot be read, or the teacher's weights are not those it was
            built with.
    """
    if num_documents < 1:
        raise CacheError(f"num_documents is {num_documents}; it must be 1 or more.")
    with CacheReader(directory) as reader:
        model = _load_teacher(reader, teacher, device_map)
        places = [(s, i) for s in reader.splits for i in range(reader.num_documents(s))]
        chosen = sorted(random.Random(seed).sample(places, min(num_documents, len(places))))
        total = sum(int(reader.document_lengths(split)[i]) - 1 for split, i in chosen)
        tally = _Tally()
        with BuildProgress(total=total, done=0) as progress:
            for split, index in chosen:
                documents = reader.read(split, [index])
                compared = _compare_document(reader, model, split, index)
                tally.add(split, index, int(documents.task_ids[0]), compared)
                progress.advance(documents.targets.num_rows)
    return tally.report(documents=len(chosen), rows=total)


def _load_teacher(reader: CacheReader, name: str | None, device_map: str | None) -> Teacher:
    identity = reader.identity
    chosen = name or identity.teacher
    model = load_causal_lm(
        chosen,
        revision=identity.revision if chosen == identity.teacher else None,
        dtype=teacher_dtype(identity),
        device_map=device_map,
    )
    teacher = Teacher(model)
    found = teacher.weights_sha256
    if found != identity.teacher_sha256:
        raise CacheError(
            f"The weights of {chosen} have the hash {found}; the cache at {reader.path} was "
            f"built with {identity.teacher}, whose hash was {identity.teacher_sha256}.\n"
            "Rows of two teachers cannot be compared; name the cache's own with --teacher."
        )
    return teacher


def _compare_document(
    reader: CacheReader, teacher: Teacher, split: str, index: int
) -> dict[str, RowComparison]:
    """The whole document, in slices of rows whose logits fit `SLICE_BYTES`."""
    documents = reader.read(split, [index])
    token_ids = torch.from_numpy(documents.token_ids)
    stored = StoredRows(
        topk_ids=documents.targets.topk_ids,
        topk_logprobs=documents.targets.topk_logprobs,
        gold_logprob=_float_rows(reader, split, index, "gold_logprob"),
        entropy=_float_rows(reader, split, index, "entropy"),
    )
    hidden = teacher.hidden(token_ids[None])[0, :-1]  # (N, D)
    num_slice = max(1, SLICE_BYTES // (4 * teacher.vocab_size))
    parts = []
    for start in range(0, len(hidden), num_slice):
        rows = slice(start, start + num_slice)
        part = StoredRows(**{name: value[rows] for name, value in vars(stored).items()})
        logits = teacher.logits(hidden[rows]).cpu()
        parts.append(compare_rows(logits, token_ids[1:][rows], part, identity=reader.identity))
    return {name: _join([part[name] for part in parts]) for name in QUANTITIES}


def _float_rows(reader: CacheReader, split: str, index: int, name: str) -> torch.Tensor:
    return torch.from_numpy(reader.read_rows(split, [index], name).astype(np.float32))


def _join(parts: list[RowComparison]) -> RowComparison:
    names = ("stored", "live", "tolerance")
    return RowComparison(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


class _Tally:
    """Largest differences and faults over the documents seen so far."""

    def __init__(self):
        self._largest = dict.fromkeys(QUANTITIES, (0.0, FLOOR_NATS))
        self._faults: list[LiveFault] = []

    def add(self, split: str, index: int, task_id: int, compared: dict[str, RowComparison]) -> None:
        """Count a document's rows."""
        for name, rows in compared.items():
            row = int(rows.difference.nan_to_num(nan=torch.inf).argmax())
            largest = float(rows.difference[row]), float(rows.tolerance[row])
            if not largest[0] <= self._largest[name][0]:
                self._largest[name] = largest
            self._faults += self._fault(rows, split, index, task_id, name)

    def _fault(
        self, rows: RowComparison, split: str, index: int, task_id: int, name: str
    ) -> Iterator[LiveFault]:
        if not bool(rows.is_beyond.any()):
            return
        row = int((rows.difference - rows.tolerance).nan_to_num(nan=torch.inf).argmax())
        yield LiveFault(
            split=split,
            index=index,
            task_id=task_id,
            row=row,
            quantity=name,
            stored=float(rows.stored[row]),
            live=float(rows.live[row]),
            tolerance=float(rows.tolerance[row]),
            num_rows=int(rows.is_beyond.sum()),
        )

    def report(self, *, documents: int, rows: int) -> LiveReport:
        """What was seen."""
        return LiveReport(
            documents=documents,
            rows=rows,
            largest_differences={name: value for name, (value, _) in self._largest.items()},
            tolerances={name: allowed for name, (_, allowed) in self._largest.items()},
            faults=tuple(self._faults),
        )
