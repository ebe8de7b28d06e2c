"""Cached documents to batches: which documents together, and as which tensors.

Letters of shapes: B documents of a batch, S positions, N rows (labels) of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cache.reader import CachedDocuments, CacheReader
from cache.soft_targets import SoftTargets

POOL_BATCHES = 16
"""Batches whose documents are sorted by length together: about 5 % padding on MBPP, while
which documents meet in a batch still differs from epoch to epoch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Documents side by side, and the rows in which a student is compared with its teacher."""

    input_ids: torch.Tensor
    """(B, S) int64, padded on the right, where causal attention never looks from a row."""
    rows: torch.Tensor
    """(N,) int64, places in the B * S positions, in the order of `targets`."""
    labels: torch.Tensor
    """(N,) int64, the token that follows."""
    targets: SoftTargets
    """N rows of the teacher."""
    task_ids: tuple[int, ...]
    """The problems the B documents come from."""
    num_tokens: int
    """Tokens of the documents, without padding."""

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )

    def select(self, kept: torch.Tensor) -> "Batch":
        """The same documents with fewer rows; `kept` (n,) int64 indexes rows."""
        return replace(
            self,
            rows=self.rows[kept],
            labels=self.labels[kept],
            targets=self.targets.select(kept),
        )


def plan_steps(
    lengths: np.ndarray, *, batch_size: int, accumulate: int, seed: int, epoch: int
) -> list[list[np.ndarray]]:
    """The documents of each microbatch of each optimizer step of an epoch.

    Documents are shuffled, sorted by length within pools of a few batches, cut into
    batches, and the batches shuffled. Every document comes once. The order follows from
    (seed, epoch) alone, so a resumed run sees what an uninterrupted one would have seen,
    on any number of processes.

    Args:
        lengths: (num_documents,) tokens of each document.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    pool_size = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(shuffled), pool_size):
        pool = shuffled[start : start + pool_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    batches = [batches[place] for place in generator.permutation(len(batches))]
    return [batches[at : at + accumulate] for at in range(0, len(batches), accumulate)]


def collate(documents: CachedDocuments, *, pad_id: int, loss_on: str = "all") -> Batch:
    """Documents of any lengths as one batch.

    Args:
        pad_id: the token that fills short documents up.
        loss_on: `all` rows, or those whose label is in the `completion`: row t predicts
            token t + 1, so it counts from t + 1 = prompt length on.
    """
    offsets = documents.token_offsets
    lengths = np.diff(offsets)
    num_positions = int(lengths.max())
    input_ids = np.full((len(lengths), num_positions), pad_id, dtype=np.int64)  # (B, S)
    rows, labels, counts = [], [], []
    for place, length in enumerate(lengths):
        tokens = documents.token_ids[offsets[place] : offsets[place + 1]]
        input_ids[place, :length] = tokens
        rows.append(place * num_positions + np.arange(length - 1))
        labels.append(tokens[1:])
        counts.append(np.arange(1, length) >= documents.prompt_lengths[place])
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        rows=torch.from_numpy(np.concatenate(rows)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        targets=documents.targets,
        task_ids=tuple(int(task_id) for task_id in documents.task_ids),
        num_tokens=int(lengths.sum()),
    )
    if loss_on == "completion":
        return batch.select(torch.from_numpy(np.flatnonzero(np.concatenate(counts))))
    return batch


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Reads one process's share of planned steps from one split of a cache."""

    reader: CacheReader
    split: str
    pad_id: int
    loss_on: str
    rank: int = 0
    world_size: int = 1

    def steps(self, plan: Sequence[Sequence[np.ndarray]]) -> Iterator[list[Batch]]:
        """The microbatches of this process, step by step.

        All processes get the same number of them, as data parallelism waits for each at
        every step: one that would go without gets a microbatch with no rows.
        """
        for microbatches in plan:
            share = [self._read(indices) for indices in microbatches[self.rank :: self.world_size]]
            longest_share = -(-len(microbatches) // self.world_size)
            while len(share) < longest_share:
                nothing = torch.empty(0, dtype=torch.int64)
                share.append(replace(self._read(microbatches[0]), num_tokens=0).select(nothing))
            yield share

    def _read(self, indices: np.ndarray) -> Batch:
        documents = self.reader.read(self.split, indices.tolist())
        return collate(documents, pad_id=self.pad_id, loss_on=self.loss_on)
