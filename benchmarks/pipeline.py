"""The input pipeline: rows a second it delivers, and what a training step waits for them.

`read` measures from shards on disk (in the page cache) to batches ready to be copied: HDF5
filters, unpacking, entropy decoding, the codec, collating; a whole epoch, so that every group of
rows is unpacked. CPU seconds of one thread are counted. `train` takes real optimizer steps, grouped
and packed in turn, and says which share of the time the loop waited for its next step.

    python benchmarks/pipeline.py read
    python benchmarks/pipeline.py train --student 2x128x2 --student 6x512x8
"""

import tempfile
import time
from pathlib import Path

import click
import torch
from made_cache import write_made_cache
from transformers import GPT2Config, GPT2LMHeadModel

from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.batches.batch import BatchSource
from distill.batches.epoch_plan import plan_epoch
from distill.batches.epochs import Epochs
from distill.learning.learner import Learner
from distill.learning.precision import start_accelerator
from distill.settings.recipe import BATCHINGS, Recipe
from distill.settings.shapes import parse_shape

FORMATS = {
    "mass, k = 64": TargetFormat(top_k=64, tail="mass"),
    "lowrank, k = 8 (default)": TargetFormat(),
}


def make_recipe(student: str, batching: str) -> Recipe:
    """Microbatches of 4 documents, 4 of them a step."""
    return Recipe(
        name="pipeline", student=student, temperature=2.0, alpha=0.5, batching=batching, epochs=99
    )


@click.group()
def main():
    """Measure the input pipeline."""
    torch.set_num_threads(1)


@main.command()
@click.option("--tokens", default=400_000)
@click.option("--vocab-size", default=4096, help="Does not matter to the time, but to the set-up.")
@click.option("--width", default=576)
@click.option("--repeats", default=3)
def read(tokens: int, vocab_size: int, width: int, repeats: int):
    """Print rows/s of an epoch for each format, best of the repeats."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, targets) in enumerate(FORMATS.items()):
            path = Path(folder) / str(number)
            write_made_cache(path, targets, num_tokens=tokens, vocab_size=vocab_size, width=width)
            rates = [epoch_rate(path, epoch) for epoch in range(repeats)]
            print(f"{name:28s} {max(rates):12,.0f} rows/s")


def epoch_rate(path: Path, epoch: int) -> float:
    """Rows a second of CPU time of one epoch, with a reader that knows nothing yet."""
    with CacheReader(path) as reader:
        started = time.process_time()
        plan = plan_epoch(
            reader.document_lengths("train"), reader.document_blocks("train"),
            batch_size=4, accumulate=4, seed=0, epoch=epoch,
        )  # fmt: skip
        source = BatchSource(reader=reader, split="train", pad_id=0, loss_on="all")
        num_rows = sum(batch.num_rows for step in source.steps(plan) for batch in step)
        return num_rows / (time.process_time() - started)


@main.command()
@click.option("--student", "students", multiple=True, default=["2x128x2"], help="Repeatable.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="A real one, instead of random rows."
)
@click.option("--tail", type=click.Choice(["mass", "lowrank"]), default="mass")
@click.option("--vocab-size", default=49_152)
@click.option("--width", default=64, help="Of the hidden states from which rows are made.")
@click.option("--steps", default=4, help="Of each side and round.")
@click.option("--rounds", default=3)
@click.option("--threads", default=1)
def train(
    students,
    cache: Path | None,
    tail: str,
    vocab_size: int,
    width: int,
    steps: int,
    rounds: int,
    threads: int,
):
    """Print the time of a step, tokens/s, padding and waiting, grouped and packed.

    CPU seconds are those of the process, reading included: on a busy machine they say more.
    """
    torch.set_num_threads(threads)
    targets = TargetFormat(top_k=16, tail=tail, tail_rank=width)
    with tempfile.TemporaryDirectory() as folder:
        path = cache or Path(folder) / "cache"
        if cache is None:
            write_made_cache(path, targets, num_tokens=80_000, vocab_size=vocab_size, width=width)
        for student in students:
            with CacheReader(path) as reader:
                learner = make_learner(student, reader)
                sides = {name: Side() for name in BATCHINGS}
                for number in range(rounds):
                    for name, side in sides.items():
                        side.run(learner, reader, name, epoch=number, steps=steps)
            for name, side in sides.items():
                print(f"{student:10s} {name:8s} {side.words()}")


def make_learner(shape: str, reader: CacheReader) -> Learner:
    """A student with random weights and its optimizer."""
    parsed = parse_shape(shape)
    config = GPT2Config(
        vocab_size=reader.vocab_size, n_positions=reader.max_length, n_layer=parsed.num_layers,
        n_embd=parsed.width, n_head=parsed.num_heads, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    recipe = make_recipe(shape, "grouped")
    accelerator = start_accelerator(recipe.precision)
    return Learner(GPT2LMHeadModel(config), recipe, accelerator, num_steps=1000)


class Side:
    """One way of batching: the steps it has taken."""

    def __init__(self):
        self.seconds = self.cpu_seconds = self.waited = 0.0
        self.steps = self.tokens = self.positions = self.microbatches = 0

    def run(self, learner: Learner, reader: CacheReader, batching: str, *, epoch: int, steps: int):
        """Train some steps; the first one, which warms up, does not count."""
        recipe = make_recipe(learner.recipe.student, batching)
        with Epochs(reader, recipe, pad_id=0).training_steps(epoch) as source:
            learner.train_step(next(source), 1)
            began, cpu_began = time.perf_counter(), time.process_time()
            for _ in range(steps):
                asked = time.perf_counter()
                batches = next(source)
                self.waited += time.perf_counter() - asked
                learner.train_step(batches, 1)
                self.tokens += sum(batch.num_tokens for batch in batches)
                self.positions += sum(batch.input_ids.numel() for batch in batches)
                self.microbatches += len(batches)
            self.seconds += time.perf_counter() - began
            self.cpu_seconds += time.process_time() - cpu_began
        self.steps += steps

    def words(self) -> str:
        """What was measured, in a line."""
        return (
            f"{1000 * self.seconds / self.steps:8,.0f} ms a step, "
            f"{self.tokens / self.seconds:8,.0f} tokens/s, "
            f"{1e6 * self.cpu_seconds / self.tokens:,.0f} us CPU a token, "
            f"padding {1 - self.tokens / self.positions:.1%}, "
            f"{self.microbatches / self.steps:.1f} microbatches, "
            f"waited {self.waited / self.seconds:.2%}"
        )


if __name__ == "__main__":
    main()
