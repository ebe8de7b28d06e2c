"""A split of a cache as a torch Dataset, for a training loop of one's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers import AutoTokenizer

from cache.reading.reader import CachedDocuments, CacheReader
from distill.batches.batch import Batch, collate, padding_id
from distill.batches.epoch_plan import plan_epoch
from distill.errors import DistillError


class CachedDataset(Dataset):
    """Documents of a split with the teacher's soft targets.

    A document read alone costs the unpacking of all that stands around it, so the order decides
    the speed: take batches from `batch_sampler`, or documents from `sampler`, which shuffle
    within few stretches of the cache at a time. Any other order works, and can be twenty times
    slower (docs/scale.md).

        dataset = CachedDataset("runs/cache")
        batches = dataset.batch_sampler(16, num_workers=2)
        loader = DataLoader(
            dataset, batch_sampler=batches, collate_fn=dataset.collate, num_workers=2
        )

    It may be handed to worker processes, forked or spawned; each opens the files itself.
    """

    def __init__(
        self,
        cache: Path | str | CacheReader,
        split: str = "train",
        *,
        pad_id: int | None = None,
        loss_on: str = "all",
    ):
        """Open a split.

        Args:
            cache: directory of a complete cache, or its reader.
            split: `train`, `validation`, or another one that the cache has.
            pad_id: the token that fills short sequences up; None: that of the cache's tokenizer.
            loss_on: which rows `collate` keeps: `all`, or those whose label is in the `completion`.

        Raises:
            CacheError: the cache is incomplete or damaged, or has no such split.
            DistillError: no `pad_id` is given and the tokenizer has none, nor an end of text.
        """
        self.reader = cache if isinstance(cache, CacheReader) else CacheReader(cache)
        self.split, self._loss_on = split, loss_on
        self._pad_id = _padding_id(self.reader) if pad_id is None else pad_id
        self.lengths = self.reader.document_lengths(split)
        """(num_documents,) int64: tokens of each document."""
        self.reader.load_tail()  # here, so that what workers send can be put together

    def __len__(self) -> int:
        """Documents of the split."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> CachedDocuments:
        """One document."""
        return self.reader.read(self.split, [index])

    def __getitems__(self, indices: Sequence[int]) -> CachedDocuments:
        """Several documents, in the order asked for; what a DataLoader hands to `collate`."""
        return self.reader.read(self.split, indices)

    def collate(self, documents: CachedDocuments) -> Batch:
        """The `collate_fn` of a DataLoader: a padded batch, with a row of targets a label."""
        return collate(documents, pad_id=self._pad_id, loss_on=self._loss_on)

    def sampler(self, *, batch_size: int = 1, seed: int = 0) -> "DocumentOrder":
        """Documents one by one in the reader's cheap order, for loaders that batch themselves.

        Args:
            batch_size: of that loader: so many documents in turn are of like length.
            seed: of the order, together with the epoch.
        """
        return DocumentOrder(self.batch_sampler(batch_size, seed=seed))

    def batch_sampler(
        self, batch_size: int, *, seed: int = 0, num_workers: int = 0
    ) -> "BatchOrder":
        """Batches in the reader's cheap order, of documents of like length.

        Args:
            batch_size: documents of a batch; the last ones may have fewer.
            seed: of the order, together with the epoch.
            num_workers: of the DataLoader: each of them reads a part of the cache of its own.

        Raises:
            DistillError: the batch size is below 1.
        """
        blocks = self.reader.document_blocks(self.split)
        return BatchOrder(
            self.lengths, blocks, batch_size=batch_size, seed=seed, num_workers=num_workers
        )


class BatchOrder(Sampler[list[int]]):
    """A `batch_sampler` of a DataLoader; each pass over it is the next epoch."""

    def __init__(
        self,
        lengths: np.ndarray,
        blocks: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        num_workers: int,
    ):
        """As `CachedDataset.batch_sampler`, of documents with these lengths and blocks."""
        if batch_size < 1:
            raise DistillError(f"batch_size is {batch_size}; it must be 1 or more.")
        self.batch_size = batch_size
        self._lengths, self._blocks, self._seed, self._epoch = lengths, blocks, seed, 0
        # A DataLoader hands batch i to worker i mod num_workers: each gets blocks of its own.
        num_parts = max(1, num_workers)
        parts = (np.flatnonzero(blocks % num_parts == part) for part in range(num_parts))
        self._parts = [documents for documents in parts if len(documents)]

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is, for runs that are taken up again."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(-(-len(documents) // self.batch_size) for documents in self._parts)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        left = [self._batches(documents, epoch) for documents in self._parts]
        while left:
            for batches in list(left):
                batch = next(batches, None)
                if batch is None:
                    left.remove(batches)
                else:
                    yield batch

    def _batches(self, documents: np.ndarray, epoch: int) -> Iterator[list[int]]:
        """The batches of one part, as an epoch of training has them."""
        _, blocks = np.unique(self._blocks[documents], return_inverse=True)
        plan = plan_epoch(
            self._lengths[documents],
            blocks,
            batch_size=self.batch_size,
            accumulate=1,
            seed=self._seed,
            epoch=epoch,
        )
        for start in range(0, len(documents), self.batch_size):
            yield documents[plan.order[start : start + self.batch_size]].tolist()


class DocumentOrder(Sampler[int]):
    """A `sampler` of a DataLoader: the documents of a `BatchOrder` one by one."""

    def __init__(self, batches: BatchOrder):
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is, for runs that are taken up again."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        """Documents of an epoch."""
        return sum(map(len, self._batches._parts))

    def __iter__(self) -> Iterator[int]:
        for batch in self._batches:
            yield from batch


def _padding_id(reader: CacheReader) -> int:
    token_id = padding_id(AutoTokenizer.from_pretrained(reader.tokenizer_path))
    if token_id is None:
        raise DistillError(
            f"the tokenizer of {reader.path} has no padding token and no end of text; give pad_id."
        )
    return token_id
