"""How much work a run is, before it starts."""

from dataclasses import dataclass

from cache.reading.reader import CacheReader
from distill.batches.epochs import Epochs
from distill.learning.pretrained import count_parameters
from distill.learning.student import num_positions
from distill.settings.recipe import Recipe
from distill.settings.shapes import names_model, parse_shape


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """A run in numbers that follow from its recipe and its cache."""

    recipe: Recipe
    """What it trains."""
    num_parameters: int
    """Weights of the student, the tied head counted once."""
    num_epochs: int
    """Passes over the cache, the last of which may end early."""
    num_steps: int
    """Optimizer steps."""
    steps_per_epoch: int
    """Of a whole one."""
    num_tokens: int
    """Tokens that go through the student in training, over all steps."""


def measure_run(recipe: Recipe, reader: CacheReader) -> RunSize:
    """The size of one run.

    Raises:
        DistillError: the cache has nothing to train on.
    """
    epochs = Epochs(reader, recipe, pad_id=0)
    return RunSize(
        recipe=recipe,
        num_parameters=_num_parameters(recipe.student, reader),
        num_epochs=epochs.num_epochs,
        num_steps=epochs.num_steps,
        steps_per_epoch=epochs.steps_per_epoch,
        num_tokens=epochs.num_tokens,
    )


def _num_parameters(student: str, reader: CacheReader) -> int:
    if not names_model(student):
        shape = parse_shape(student)
        return shape.num_parameters(reader.vocab_size, num_positions(reader.max_length))
    return count_parameters(student, reader.vocab_size)
