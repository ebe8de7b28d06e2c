"""The batches of a run: each epoch of the training split, and the validation split."""

from collections.abc import Iterator
from contextlib import contextmanager

from cache.reader import CacheReader
from distill.batches import Batch, BatchSource, plan_steps
from distill.errors import DistillError
from distill.prefetch import prefetch
from distill.recipe import Recipe

TRAIN, VALIDATION = "train", "validation"


class Epochs:
    """What one process of a run reads, in the order the recipe's seed decides."""

    def __init__(
        self,
        reader: CacheReader,
        recipe: Recipe,
        *,
        pad_id: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Read nothing yet.

        Raises:
            DistillError: the cache has nothing to train on.
        """
        if TRAIN not in reader.splits or not reader.num_documents(TRAIN):
            raise DistillError(
                f"cache at {reader.path} has no documents to train on (splits: "
                f"{', '.join(reader.splits) or 'none'}). Build one that has the split train: "
                "python cli.py cache-teacher ..."
            )
        self._reader, self._recipe = reader, recipe
        self._pad_id, self._rank, self._world_size = pad_id, rank, world_size
        lengths = reader.document_lengths(TRAIN)
        self._plans = [
            plan_steps(
                lengths,
                batch_size=recipe.batch_size,
                accumulate=recipe.accumulate,
                seed=recipe.seed,
                epoch=epoch,
            )
            for epoch in range(recipe.epochs)
        ]
        self.num_steps = sum(len(plan) for plan in self._plans)
        self.has_validation = VALIDATION in reader.splits and reader.num_documents(VALIDATION) > 0

    @contextmanager
    def training_steps(self, epoch: int, first_step: int = 0) -> Iterator[Iterator[list[Batch]]]:
        """Microbatches step by step, read ahead in a thread that ends with the block.

        Args:
            first_step: optimizer steps of the epoch to pass over; they are not read.
        """
        steps = prefetch(self._source(TRAIN).steps(self._plans[epoch][first_step:]))
        try:
            yield steps
        finally:
            steps.close()

    def validation_steps(self) -> Iterator[list[Batch]]:
        """The whole validation split, the same batches every time."""
        plan = plan_steps(
            self._reader.document_lengths(VALIDATION),
            batch_size=self._recipe.batch_size,
            accumulate=self._world_size,
            seed=0,
            epoch=0,
        )
        return self._source(VALIDATION).steps(plan)

    def _source(self, split: str) -> BatchSource:
        return BatchSource(
            reader=self._reader,
            split=split,
            pad_id=self._pad_id,
            loss_on=self._recipe.loss_on,
            rank=self._rank,
            world_size=self._world_size,
        )
