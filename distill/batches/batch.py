"""Cached documents to batches: one microbatch of a plan, read and laid out as tensors.

Letters of shapes: B sequences of a batch, S positions, N rows of targets (labels) of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from cache.reading.reader import CachedDocuments, CacheReader
from cache.targets.soft_targets import SoftTargets
from distill.batches.epoch_plan import EpochPlan, Microbatch
from distill.errors import DistillError
from distill.settings.recipe import LOSS_ON


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Documents in sequences, and the places in which a student is compared with its teacher."""

    input_ids: torch.Tensor
    """(B, S) int64, padded on the right, where causal attention never looks from a document."""
    position_ids: torch.Tensor | None = None
    """(B, S) int64, from 0 in each document of a packed sequence; None: a sequence is one
    document."""
    places: torch.Tensor
    """(N,) int64, which of the B * S positions each row of `targets` predicts from."""
    labels: torch.Tensor
    """(N,) int64, the token that follows."""
    targets: SoftTargets
    """N rows of the teacher."""
    task_ids: tuple[int, ...]
    """The problems that the documents come from."""
    num_tokens: int
    """Tokens of the documents, without padding."""
    counted: torch.Tensor | None = None
    """(n,) int64, which of the N rows the loss counts, where others are kept; None: all."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.places)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device; from pinned memory, without waiting for it."""
        targets = self.targets.to(device, non_blocking=True)
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), targets)

    def pin_memory(self) -> "Batch":
        """The same batch in memory from which a GPU copies while others compute."""
        return self._map(torch.Tensor.pin_memory, self.targets.pin_memory())

    def select(self, kept: torch.Tensor) -> "Batch":
        """The same documents with fewer rows; `kept` (n,) int64 indexes rows."""
        return replace(
            self,
            places=self.places[kept],
            labels=self.labels[kept],
            targets=self.targets.select(kept),
            counted=None,
        )

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor], targets: SoftTargets) -> "Batch":
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=None if self.position_ids is None else change(self.position_ids),
            places=change(self.places),
            labels=change(self.labels),
            targets=targets,
            counted=None if self.counted is None else change(self.counted),
        )


def collate(
    documents: CachedDocuments,
    *,
    pad_id: int,
    loss_on: str = "all",
    keeps_rows: bool = False,
    per_sequence: Sequence[int] | None = None,
) -> Batch:
    """Documents of any lengths as one batch of B sequences, S positions and N rows.

    Args:
        documents: of `CacheReader.read`.
        pad_id: the token that fills short sequences up.
        loss_on: `all` rows, those whose label is in the `completion` (row t predicts token
            t + 1, so it counts from t + 1 = prompt length on), or those whose label the
            `assistant` wrote, in whichever turn. The first token of an isolated text never
            counts: nothing before it is its context.
        keeps_rows: whether rows that `loss_on` leaves out stay, with `counted` naming the others.
        per_sequence: documents that stand end to end in each of the B sequences; by default one.

    Raises:
        DistillError: another `loss_on`, or `per_sequence` counts more or fewer documents.
    """
    lengths, num_documents = np.diff(documents.token_offsets), len(documents.task_ids)
    ones = np.ones(num_documents, dtype=np.int64)
    counts = ones if per_sequence is None else np.array(per_sequence)
    if loss_on not in LOSS_ON:
        raise DistillError(f"loss_on is {loss_on!r}; choose from {', '.join(LOSS_ON)}.")
    if counts.sum() != num_documents or counts.min() < 1:
        raise DistillError(
            f"per_sequence counts {counts.tolist()} documents, but there are {num_documents}."
        )
    sequence_of = np.repeat(np.arange(len(counts)), counts)  # of each document
    sequence_starts = documents.token_offsets[np.cumsum(counts) - counts]
    starts = documents.token_offsets[:-1] - sequence_starts[sequence_of]  # inside of them
    num_positions = int((starts + lengths).max())
    within = np.arange(int(lengths.sum())) - np.repeat(documents.token_offsets[:-1], lengths)
    places = np.repeat(sequence_of * num_positions + starts, lengths) + within  # of each token
    input_ids = np.full((len(counts), num_positions), pad_id, dtype=np.int64)  # (B, S)
    input_ids.reshape(-1)[places] = documents.token_ids
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=_positions(places, _begins(documents, within), input_ids.shape),
        places=torch.from_numpy(places[np.append(within[1:] > 0, False)]),
        labels=torch.from_numpy(documents.token_ids[within > 0].astype(np.int64, copy=False)),
        targets=documents.targets,
        task_ids=tuple(int(task_id) for task_id in documents.task_ids),
        num_tokens=int(lengths.sum()),
    )
    has_context = within > 0  # of each token, as a label
    if documents.isolated:
        has_context &= ~documents.begins_text
    counts_as = np.ones(len(within), dtype=bool)
    if loss_on == "completion":
        counts_as = within >= np.repeat(documents.prompt_lengths, lengths)
    elif loss_on == "assistant":
        counts_as = documents.by_assistant
    kept = has_context if keeps_rows else has_context & counts_as
    if not kept[within > 0].all():
        batch = batch.select(torch.from_numpy(np.flatnonzero(kept[within > 0])))
    if counts_as[kept].all():
        return batch
    return replace(batch, counted=torch.from_numpy(np.flatnonzero(counts_as[kept])))


def _begins(documents: CachedDocuments, within: np.ndarray) -> np.ndarray:
    """(num_tokens,) bool: where positions start again, at documents and isolated texts."""
    if not documents.isolated:
        return within == 0
    return (within == 0) | documents.begins_text


def _positions(
    places: np.ndarray, begins: np.ndarray, shape: tuple[int, ...]
) -> torch.Tensor | None:
    """(B, S) distance from where a text begins; padding goes on with the last one.

    None where that is each sequence's own start.
    """
    starts = places[begins]
    if len(starts) == shape[0]:
        return None
    begun = np.zeros(shape, dtype=np.int64)
    begun.reshape(-1)[starts] = starts % shape[1]
    return torch.from_numpy(np.arange(shape[1]) - np.maximum.accumulate(begun, axis=1))


@dataclass(frozen=True, kw_only=True)
class BatchSource:
    """Reads one process's part of planned steps from one split of a cache."""

    reader: CacheReader
    split: str
    pad_id: int
    loss_on: str
    keeps_rows: bool = False
    """Whether rows that `loss_on` leaves out stay in batches."""
    rank: int = 0
    world_size: int = 1
    pinned: bool = False
    """Whether batches are put into pinned memory, for copies to a GPU."""

    def steps(self, plan: EpochPlan, first_step: int = 0) -> Iterator[list[Batch]]:
        """The microbatches of this process, step by step.

        All processes get the same number of them, as data parallelism waits for each at
        every step: one that would go without gets a microbatch with no rows.
        """
        for number in range(first_step, len(plan)):
            microbatches = plan.step(number)
            own = [self._read(batch) for batch in microbatches[self.rank :: self.world_size]]
            most = -(-len(microbatches) // self.world_size)
            while len(own) < most:
                nothing = torch.empty(0, dtype=torch.int64)
                own.append(replace(self._read(microbatches[0]), num_tokens=0).select(nothing))
            yield [batch.pin_memory() for batch in own] if self.pinned else own

    def _read(self, microbatch: Microbatch) -> Batch:
        documents = self.reader.read(self.split, np.concatenate(microbatch).tolist())
        return collate(
            documents,
            pad_id=self.pad_id,
            loss_on=self.loss_on,
            keeps_rows=self.keeps_rows,
            per_sequence=[len(sequence) for sequence in microbatch],
        )


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's, or the end of text where it has none."""
    pad_id = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad_id is None else pad_id
