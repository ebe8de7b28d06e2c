"""Caches of 70 thousand to 200 million rows: what opening, planning, reading and verifying cost.

A few shards of random rows are written and hard-linked over and over: manifest, lengths and the
number of files are those of a real cache of that size, its bytes are not. They fit the page cache,
so the disk is left out of every figure. Each size is measured in a process of its own; seconds are
its CPU's, of one thread.

    python benchmarks/scale.py --rows 70000 --rows 200000000
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
from made_cache import repeat_cache, write_made_cache

from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from cache.tools.verify import verify_cache
from distill.batches.epoch_plan import plan_epoch

BATCH_DOCUMENTS = 16


@dataclass(frozen=True, kw_only=True)
class Measured:
    """CPU seconds unless a name says otherwise."""

    rows: int
    shards: int
    manifest_mb: float
    open: float
    lengths: float
    lengths_from_shards: float
    """The same by opening every shard, as format 2 does."""
    plan: float
    memory_mb: float
    """Resident once an epoch is planned, less what the imports took."""
    random_rows_per_second: float
    planned_rows_per_second: float
    verified_rows_per_second: float


@click.command()
@click.option("--rows", "sizes", multiple=True, type=int,
              default=(70_000, 700_000, 7_000_000, 70_000_000, 200_000_000))  # fmt: skip
@click.option("--distinct-tokens", default=4 * 32768, help="Of the shards that are linked.")
@click.option("--seconds", default=20.0, help="Of reading, and of verifying, at most.")
@click.option("--plot", type=click.Path(path_type=Path))
@click.option("--measure", type=click.Path(path_type=Path), hidden=True)
def main(
    sizes: tuple[int, ...],
    distinct_tokens: int,
    seconds: float,
    plot: Path | None,
    measure: Path | None,
):
    """Print a line a size."""
    if measure is not None:
        click.echo(json.dumps(asdict(measure_cache(measure, seconds))))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small"
        write_made_cache(
            small, TargetFormat(), num_tokens=distinct_tokens, vocab_size=4096, width=576
        )
        for rows in sizes:
            large = Path(folder) / str(rows)
            _, seconds_taken = timed(partial(repeat_cache, small, large, rows))
            click.echo(f"{rows:,} rows: linked and finished in {seconds_taken:.1f} s", err=True)
            command = [sys.executable, __file__, "--measure", str(large), "--seconds", str(seconds)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results.append(Measured(**json.loads(printed)))
            click.echo(results[-1])
    if plot is not None:
        draw(results, plot)


def measure_cache(directory: Path, seconds: float) -> Measured:
    """All figures of one cache."""
    before = resident_mb()
    reader, open_seconds = timed(lambda: CacheReader(directory))
    lengths, length_seconds = timed(lambda: reader.document_lengths("train"))
    order, plan_seconds = timed(lambda: epoch_order(reader, lengths))
    memory = resident_mb() - before
    shards = reader.manifest.plan.shards
    _, shard_seconds = timed(
        lambda: np.concatenate([np.diff(reader.shards.shard(s).offsets) for s in shards])
    )
    chance = np.random.default_rng(0).permutation(len(lengths))
    random_rate = read_rate(reader, chance, seconds)
    planned_rate = read_rate(reader, order, seconds)
    return Measured(
        rows=sum(shard.num_rows for shard in shards),
        shards=len(shards),
        manifest_mb=(directory / "manifest.json").stat().st_size / 1e6,
        open=open_seconds,
        lengths=length_seconds,
        lengths_from_shards=shard_seconds,
        plan=plan_seconds,
        memory_mb=memory,
        random_rows_per_second=random_rate,
        planned_rows_per_second=planned_rate,
        verified_rows_per_second=verify_rate(directory, reader, seconds),
    )


def epoch_order(reader: CacheReader, lengths: np.ndarray) -> np.ndarray:
    blocks = reader.document_blocks("train")
    return plan_epoch(lengths, blocks, batch_size=4, accumulate=4, seed=0, epoch=0).order


def read_rate(reader: CacheReader, order: np.ndarray, seconds: float) -> float:
    """Rows a second in this order of documents, from cold."""
    reader.close()
    started, rows = time.process_time(), 0
    for at in range(0, len(order) - BATCH_DOCUMENTS + 1, BATCH_DOCUMENTS):
        documents = reader.read("train", order[at : at + BATCH_DOCUMENTS].tolist())
        rows += len(documents.token_ids) - BATCH_DOCUMENTS
        if time.process_time() - started > seconds:
            break
    return rows / (time.process_time() - started)


class TimeIsUp(Exception):
    """Enough was verified."""


def verify_rate(directory: Path, reader: CacheReader, seconds: float) -> float:
    """Rows a second of verify, over its first shards."""
    num_rows = {shard.path: shard.num_rows for shard in reader.manifest.plan.shards}
    begun: list[tuple[float, str]] = []

    def on_file(path: str) -> None:
        begun.append((time.process_time(), path))
        if begun[-1][0] - begun[0][0] > seconds:
            raise TimeIsUp

    try:
        assert verify_cache(directory, on_file) == []
        on_file("")
    except TimeIsUp:
        pass
    rows = sum(num_rows.get(path, 0) for _, path in begun[:-1])
    return rows / (begun[-1][0] - begun[0][0])


def timed(task):
    """What a call returns, and its CPU seconds."""
    started = time.process_time()
    value = task()
    return value, time.process_time() - started


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def draw(results: list[Measured], path: Path) -> None:
    """Seconds and memory, and rates, against rows."""
    rows = [result.rows for result in results]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, label in (
        ("open", "open (manifest)"), ("lengths", "document lengths"),
        ("lengths_from_shards", "the same from shards (format 2)"), ("plan", "plan an epoch"),
    ):  # fmt: skip
        axes[0].plot(rows, [getattr(r, name) for r in results], marker="o", label=label)
    axes[0].set(title="CPU seconds before the first step", ylabel="s", yscale="log")
    axes[1].plot(rows, [r.memory_mb for r in results], marker="o", label="after planning an epoch")
    axes[1].plot(rows, [r.manifest_mb for r in results], marker="o", label="manifest.json on disk")
    axes[1].set(title="Memory and manifest", ylabel="MB", yscale="log")
    for name, label in (
        ("planned_rows_per_second", "read, an epoch's order"),
        ("random_rows_per_second", "read, any order"),
        ("verified_rows_per_second", "verify"),
    ):
        axes[2].plot(rows, [getattr(r, name) for r in results], marker="o", label=label)
    axes[2].set(title="Rows a CPU second (one thread)", ylabel="rows/s", yscale="log")
    for axis in axes:
        axis.set(xscale="log", xlabel="rows")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
