"""Rows a second of reading in training, and of a DataLoader over `CachedDataset`, wall-clock.

All sides read batches of as many documents from one made cache: the training loop's own reading,
ahead in a thread; DataLoaders that take batches from `batch_sampler`; and DataLoaders that
shuffle the whole split. Nothing is computed with the batches. Sides run in turns, each from cold,
and the first quarter of a turn, in which the first rows of every block are unpacked, does not
count; the best turn does. A few shards are hard-linked until there are enough rows that chance
finds none unpacked, so nothing comes from a disk.

    python benchmarks/loader.py
    python benchmarks/loader.py --rows 700000 --workers 0 --workers 4
"""

import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import click
import torch
from made_cache import repeat_cache, write_made_cache
from torch.utils.data import DataLoader

from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.batches.batch import Batch
from distill.batches.dataset import CachedDataset
from distill.batches.epochs import Epochs
from distill.settings.recipe import Recipe

Batches = Generator[Batch, None, None]


def from_training(path: Path, batch_size: int) -> Batches:
    """What the training loop reads, epoch after epoch."""
    recipe = Recipe(
        name="loader", student="2x128x2", temperature=2.0, alpha=0.5, batch_size=batch_size,
        accumulate=1,
    )  # fmt: skip
    with CacheReader(path) as reader:
        epochs = Epochs(reader, recipe, pad_id=0)
        for epoch in count():
            with epochs.training_steps(epoch) as steps:
                for step in steps:
                    yield from step


def from_batch_sampler(path: Path, batch_size: int, num_workers: int) -> Batches:
    """What a DataLoader reads in the reader's cheap order."""
    with CacheReader(path) as reader:
        dataset = CachedDataset(reader, pad_id=0)
        order = dataset.batch_sampler(batch_size, num_workers=num_workers)
        yield from _forever(dataset, batch_sampler=order, num_workers=num_workers)


def shuffled(path: Path, batch_size: int, num_workers: int) -> Batches:
    """What a DataLoader reads in an order that knows nothing of the cache."""
    with CacheReader(path) as reader:
        dataset = CachedDataset(reader, pad_id=0)
        yield from _forever(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers)


def _forever(dataset: CachedDataset, **options: Any) -> Batches:
    loader: DataLoader = DataLoader(dataset, collate_fn=dataset.collate, **options)  # type: ignore[arg-type]
    while True:
        yield from loader


def rate(batches: Batches, seconds: float) -> float:
    """Rows a second, after a quarter of the time."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds / 4:
        next(batches)
    started, num_rows = time.perf_counter(), 0
    while time.perf_counter() - started < seconds * 3 / 4:
        num_rows += next(batches).num_rows
    return num_rows / (time.perf_counter() - started)


@click.command()
@click.option("--rows", default=7_000_000)
@click.option("--distinct-tokens", default=4 * 32768, help="Of the shards that are linked.")
@click.option("--tail", type=click.Choice(["mass", "lowrank"]), default="lowrank")
@click.option("--batch-size", default=16, help="Documents.")
@click.option("--workers", default=(0, 1, 2), multiple=True, help="Of a DataLoader.")
@click.option("--seconds", default=20.0, help="Of a turn.")
@click.option("--repeats", default=2)
def main(
    rows: int,
    distinct_tokens: int,
    tail: str,
    batch_size: int,
    workers: tuple[int, ...],
    seconds: float,
    repeats: int,
):
    """Print rows/s of every side, and its ratio to the training loop's own reading."""
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        targets = TargetFormat(tail=tail)
        write_made_cache(
            small, targets, num_tokens=distinct_tokens, vocab_size=4096, width=targets.tail_rank
        )
        repeat_cache(small, large, rows)
        own = "training loop"
        sides: dict[str, Callable[[], Batches]] = {own: partial(from_training, large, batch_size)}
        for kind, read in (("batch_sampler", from_batch_sampler), ("shuffle=True", shuffled)):
            for num in workers:
                name = f"DataLoader, {kind}, {num} workers"
                sides[name] = partial(read, large, batch_size, num)
        best = dict.fromkeys(sides, 0.0)
        for _ in range(repeats):
            for name, side in sides.items():
                with closing(side()) as batches:
                    best[name] = max(best[name], rate(batches, seconds))
        for name, found in best.items():
            print(f"{name:40s} {found:12,.0f} rows/s {found / best[own]:8.3f} x training loop")


if __name__ == "__main__":
    main()
