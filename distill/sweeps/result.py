"""What a finished sweep amounts to."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError
from distill.errors import DistillError

TRAINED, RESUMED, SKIPPED, FAILED = "trained", "resumed", "skipped", "failed"
SENTENCES = (DistillError, CacheError)
"""Errors whose message was written for people."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What became of one recipe."""

    name: str
    """Of the recipe, and of the directory in the sweep's."""
    out: Path
    """The run's directory."""
    status: str
    """`trained`, `resumed` (an unfinished run was gone on with), `skipped` (it had finished
    before) or `failed`."""
    seconds: float | None = None
    """Time spent in optimizer steps; None if it failed."""
    losses: dict[str, float] | None = None
    """As in `TrainResult`; None if it failed."""
    error: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What became of each recipe of a sweep, in the order of the file."""

    out: Path
    """The sweep's directory."""
    runs: tuple[RunOutcome, ...]
    """One a recipe."""

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        """The runs that failed; none if all is well."""
        return tuple(run for run in self.runs if run.status == FAILED)


def reason(error: Exception) -> str:
    """Why a run failed, with the error's kind in front where nobody wrote a sentence for it."""
    return str(error) if isinstance(error, SENTENCES) else f"{type(error).__name__}: {error}"
