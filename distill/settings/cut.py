"""What `init-student` is asked to do. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError

CHOICES = ("uniform", "influence", "kl")


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """What `init_student` is asked to do."""

    teacher: str
    """Hub id, folder or .gguf file."""
    out: Path
    """Directory of the student: a plain Hugging Face folder, with `student.json`."""
    num_layers: int | None = None
    """How many layers to keep."""
    kept: tuple[int, ...] | None = None
    """Which layers, by hand, in place of `num_layers` and `choose`."""
    choose: str = "uniform"
    """`uniform`: evenly spaced, the first and the last kept; `influence`: those that change their
    input most; `kl`: those left when the layer whose loss costs least is taken out, one by one."""
    cache: Path | None = None
    """A cache of this teacher, whose first documents are measured on: for `influence` and `kl`,
    and to measure what the cut costs."""
    num_tokens: int = 1024
    """How many of its tokens."""
    revision: str | None = None
    """Of the teacher on the hub."""
    dtype: str = "auto"
    """Of its weights, and of the student's; with a cache it is that of the cache."""

    def __post_init__(self) -> None:
        if (self.num_layers is None) == (self.kept is None):
            raise DistillError("Give one of --layers and --keep.")
        if self.choose not in CHOICES:
            raise DistillError(
                f"choose is {self.choose!r}, but must be one of {', '.join(CHOICES)}."
            )
        if self.kept is None and self.choose != "uniform" and self.cache is None:
            raise DistillError(
                f"--choose {self.choose} measures on a cache's documents. Give --cache, or choose "
                "uniform."
            )
        if self.num_tokens < 2:
            raise DistillError(f"num_tokens is {self.num_tokens}, but must be 2 or more.")
