"""The plan of an epoch: which documents in which step, microbatch and sequence; none is read."""

from dataclasses import dataclass

import numpy as np

from distill.batches.packing import pack
from distill.batches.shuffle import shuffle

POOL_BATCHES = 16
"""Batches whose documents are sorted by length together: about 5 % padding on MBPP, while
which documents meet in a batch still differs from epoch to epoch."""

Microbatch = list[np.ndarray]
"""Sequences, each the documents that stand in it, one after the other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """What each optimizer step of an epoch trains on; any step can be asked for at no cost.

    A step has batch_size · accumulate documents, the last one those that are left, on any
    number of processes.
    """

    order: np.ndarray
    """(num_documents,) int64: every document once."""
    lengths: np.ndarray
    """(num_documents,) tokens of each document."""
    batch_size: int
    """Most sequences of a microbatch."""
    accumulate: int
    """Microbatches of a step, where a sequence is a document."""
    capacity: int | None = None
    """Most tokens of a sequence into which documents are packed; None: each is one document."""
    world_size: int = 1
    """Processes among which packed sequences are divided."""

    def __len__(self) -> int:
        """Optimizer steps of the epoch."""
        return num_steps(len(self.order), self.batch_size * self.accumulate)

    def step(self, number: int) -> list[Microbatch]:
        """The microbatches of a step, counted from 0, of all processes."""
        per_step = self.batch_size * self.accumulate
        documents = self.order[number * per_step : (number + 1) * per_step]
        if self.capacity is None:
            each, size = list(documents.reshape(-1, 1)), self.batch_size
            return [each[at : at + size] for at in range(0, len(each), size)]
        packed = [documents[places] for places in pack(self.lengths[documents], self.capacity)]
        count = -(-len(packed) // self.batch_size)
        count = min(len(packed), -(-count // self.world_size) * self.world_size)
        ends = np.arange(1, count + 1) * len(packed) // count
        return [packed[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def num_steps(num_documents: int, per_step: int) -> int:
    """Optimizer steps that train on every document once."""
    return -(-num_documents // per_step)


def plan_epoch(
    lengths: np.ndarray,
    blocks: np.ndarray,
    *,
    batch_size: int,
    accumulate: int,
    seed: int,
    epoch: int,
    capacity: int | None = None,
    world_size: int = 1,
) -> EpochPlan:
    """The plan that follows from (seed, epoch) and a cache's lengths and blocks alone.

    Args:
        lengths: (num_documents,) tokens of each document.
        blocks: (num_documents,) block of each document; see `distill.batches.shuffle`.
        capacity: as in `EpochPlan`; without it documents of like length meet in a batch.
    """
    order = shuffle(blocks, seed=seed, epoch=epoch)
    if capacity is None:
        order = group_by_length(order, lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    return EpochPlan(
        order=order,
        lengths=lengths,
        batch_size=batch_size,
        accumulate=accumulate,
        capacity=capacity,
        world_size=world_size,
    )


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int
) -> np.ndarray:
    """The same documents, sorted by length within pools of a few batches.

    A pool's batches are shuffled. Documents that fill no whole batch stay last.
    """
    num_batches = len(order) // batch_size
    grouped, left_over = np.split(order, [num_batches * batch_size])
    pools = np.arange(num_batches) // POOL_BATCHES
    by_length = np.lexsort((lengths[grouped], np.repeat(pools, batch_size)))
    batches = grouped[by_length].reshape(num_batches, batch_size)
    chance = np.random.default_rng([seed, epoch, 1]).random(num_batches)
    return np.concatenate([batches[np.argsort(pools + chance)].ravel(), left_over])
