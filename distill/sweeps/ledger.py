"""What a cache has saved: the teacher's forward passes, once against once an epoch and student.

FLOPs are counted as 2 · parameters · tokens for a forward pass and 6 · parameters · tokens for
training (Kaplan et al. 2020, section 2.1): matrix products with weights, without attention. Frozen
weights are counted as if they learned, which is up to half as much again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cache.reading.reader import CacheReader
from distill.batches.epochs import TRAIN
from distill.sweeps.result import RunOutcome
from distill.sweeps.run_size import RunSize


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """A finished student."""

    name: str
    num_parameters: int
    num_epochs: int
    num_tokens: int
    """That it was trained on, over all epochs."""
    learns_from_teacher: bool
    """Whether the distillation term ever has a weight; without one, no loop would ask a teacher."""
    seconds: float
    """Measured: in optimizer steps."""

    @property
    def teacher_tokens(self) -> int:
        """Those that a teacher in the loop would read."""
        return self.num_tokens if self.learns_from_teacher else 0

    @property
    def teacher_epochs(self) -> int:
        """Epochs in which it would read them."""
        return self.num_epochs if self.learns_from_teacher else 0


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The cost of finished students with their cache, and with the teacher in the loop.

    On the loop's side stand training tokens only. On the cache's side stands all that the
    teacher has read for it, validation included.
    """

    train_tokens: int
    """Of one epoch."""
    cache_tokens: int
    """Of all splits: what the teacher read once."""
    teacher_parameters: int | None
    """None where nobody said."""
    cache_seconds: float | None
    """Measured when the cache was built, on its machine: the teacher, and coding what it said.
    None where the cache does not say."""
    runs: tuple[RunCost, ...]

    @property
    def loop_tokens(self) -> int:
        """Tokens a teacher in the loop would have read."""
        return sum(run.teacher_tokens for run in self.runs)

    @property
    def loop_seconds(self) -> float | None:
        """Seconds it would have taken at the speed of the cache's build."""
        if self.cache_seconds is None:
            return None
        return self.cache_seconds * self.loop_tokens / self.cache_tokens

    @property
    def student_flops(self) -> int:
        """Forward and backward passes of all students."""
        return sum(6 * run.num_parameters * run.num_tokens for run in self.runs)

    @property
    def student_seconds(self) -> float:
        """Measured, summed over students, whether they trained at once or in turn."""
        return sum(run.seconds for run in self.runs)

    @property
    def break_even_epochs(self) -> float:
        """Epochs, of one student or of several, after which the cache has cost less."""
        return self.cache_tokens / self.train_tokens

    @property
    def teacher_epochs(self) -> int:
        """Epochs of all students together that learn from the teacher."""
        return sum(run.teacher_epochs for run in self.runs)

    @property
    def paid_by(self) -> str | None:
        """The student in whose training the cache became the cheaper way, or None so far."""
        epochs = 0
        for run in self.runs:
            epochs += run.teacher_epochs
            if epochs >= self.break_even_epochs:
                return run.name
        return None

    def teacher_flops(self, num_tokens: int) -> int | None:
        """Forward passes over so many tokens."""
        return None if self.teacher_parameters is None else 2 * self.teacher_parameters * num_tokens

    def to_json(self) -> dict[str, Any]:
        """The ledger for `ledger.json`, with what was measured and what computed."""
        return {
            "measured": {
                "cache_seconds": self.cache_seconds,
                "student_seconds": round(self.student_seconds, 3),
                "train_tokens": self.train_tokens,
                "cache_tokens": self.cache_tokens,
                "teacher_parameters": self.teacher_parameters,
                "runs": [asdict(run) for run in self.runs],
            },
            "computed": {
                "loop_tokens": self.loop_tokens,
                "loop_seconds": self.loop_seconds,
                "teacher_flops_once": self.teacher_flops(self.cache_tokens),
                "teacher_flops_in_the_loop": self.teacher_flops(self.loop_tokens),
                "student_flops": self.student_flops,
                "break_even_epochs": self.break_even_epochs,
                "paid_by": self.paid_by,
            },
        }


def open_ledger(
    reader: CacheReader,
    sizes: Sequence[RunSize],
    outcomes: Sequence[RunOutcome],
    *,
    teacher_parameters: int | None = None,
) -> Ledger:
    """The ledger of the runs that have finished, now or in an earlier sitting.

    Args:
        sizes: of all runs of the sweep.
        outcomes: of the same runs.
        teacher_parameters: in place of the number in the cache.
    """
    lengths = {split: reader.document_lengths(split) for split in reader.splits}
    num_rows = sum(int(of_split.sum()) - len(of_split) for of_split in lengths.values())
    seconds, rows = (reader.created.get(name) for name in ("teacher_seconds", "teacher_rows"))
    by_name = {size.recipe.name: size for size in sizes}
    return Ledger(
        train_tokens=int(lengths[TRAIN].sum()),
        cache_tokens=sum(int(of_split.sum()) for of_split in lengths.values()),
        teacher_parameters=teacher_parameters or reader.created.get("teacher_parameters"),
        cache_seconds=round(seconds * num_rows / rows, 3) if seconds and rows else None,
        runs=tuple(
            RunCost(
                name=outcome.name,
                num_parameters=by_name[outcome.name].num_parameters,
                num_epochs=by_name[outcome.name].num_epochs,
                num_tokens=by_name[outcome.name].num_tokens,
                learns_from_teacher=by_name[outcome.name].recipe.learns_from_teacher,
                seconds=outcome.seconds,
            )
            for outcome in outcomes
            if outcome.seconds is not None
        ),
    )
