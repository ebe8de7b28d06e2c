"""The batches of a run: each epoch of the training split, and the validation split."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from cache.reading.reader import CacheReader
from distill.batches.batch import Batch, BatchSource
from distill.batches.epoch_plan import EpochPlan, num_steps, plan_epoch
from distill.batches.prefetch import prefetch
from distill.errors import DistillError
from distill.settings.recipe import Recipe

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
        self.steps_per_epoch = num_steps(
            reader.num_documents(TRAIN), recipe.batch_size * recipe.accumulate
        )
        self.num_steps = planned_steps(reader, recipe)
        self.num_epochs = -(-self.num_steps // self.steps_per_epoch)
        """The last of which may end early."""
        self.has_validation = VALIDATION in reader.splits and reader.num_documents(VALIDATION) > 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the documents of all steps."""
        lengths, recipe = self._reader.document_lengths(TRAIN), self._recipe
        whole, left = divmod(self.num_steps, self.steps_per_epoch)
        begun = np.empty(0, dtype=np.int64)  # documents of an epoch that the run does not end
        if left:
            plan = self._plan(TRAIN, accumulate=recipe.accumulate, seed=recipe.seed, epoch=whole)
            begun = plan.order[: left * recipe.batch_size * recipe.accumulate]
        return whole * int(lengths.sum()) + int(lengths[begun].sum())

    @contextmanager
    def training_steps(self, epoch: int, first_step: int = 0) -> Iterator[Iterator[list[Batch]]]:
        """Microbatches step by step, read ahead in a thread that ends with the block.

        Args:
            first_step: optimizer steps of the epoch to pass over; they are not read.
        """
        recipe = self._recipe
        plan = self._plan(TRAIN, accumulate=recipe.accumulate, seed=recipe.seed, epoch=epoch)
        with closing(prefetch(self._source(TRAIN).steps(plan, first_step))) as steps:
            yield steps

    @contextmanager
    def validation_steps(self) -> Iterator[Iterator[list[Batch]]]:
        """The validation split, or the part that the recipe measures: the same batches every time,
        with the rows of all tokens; as `training_steps`."""
        with closing(prefetch(self._source(VALIDATION).steps(self._validation_plan))) as steps:
            yield steps

    @property
    def num_validation_steps(self) -> int:
        """Steps of a validation."""
        return len(self._validation_plan)

    @cached_property
    def _validation_plan(self) -> EpochPlan:
        return self._plan(VALIDATION, accumulate=self._world_size, seed=0, epoch=0)

    def _plan(self, split: str, *, accumulate: int, seed: int, epoch: int) -> EpochPlan:
        recipe, lengths = self._recipe, self._reader.document_lengths(split)
        blocks = self._reader.document_blocks(split)
        chosen = np.arange(len(lengths))
        if split == VALIDATION and recipe.validation_documents is not None:
            chosen = evenly_spaced_documents(len(lengths), recipe.validation_documents)
            _, blocks = np.unique(blocks[chosen], return_inverse=True)
        plan = plan_epoch(
            lengths[chosen],
            blocks,
            batch_size=recipe.batch_size,
            accumulate=accumulate,
            seed=seed,
            epoch=epoch,
            capacity=self._reader.max_length if recipe.batching == "packed" else None,
            world_size=self._world_size,
        )
        return replace(plan, order=chosen[plan.order], lengths=lengths)

    def _source(self, split: str) -> BatchSource:
        return BatchSource(
            reader=self._reader,
            split=split,
            pad_id=self._pad_id,
            loss_on=self._recipe.loss_on,
            keeps_rows=split == VALIDATION,
            rank=self._rank,
            world_size=self._world_size,
            pinned=torch.cuda.is_available(),
        )


def evenly_spaced_documents(num_documents: int, most: int) -> np.ndarray:
    """(min(num_documents, most),) int64: some of the numbers from 0 on, rising, 0 among them."""
    count = min(num_documents, most)
    return np.arange(count) * num_documents // max(count, 1)


def planned_steps(reader: CacheReader, recipe: Recipe) -> int:
    """Optimizer steps of a whole run."""
    per_step = recipe.batch_size * recipe.accumulate
    of_epochs = recipe.epochs * num_steps(reader.num_documents(TRAIN), per_step)
    return of_epochs if recipe.max_steps is None else min(of_epochs, recipe.max_steps)
