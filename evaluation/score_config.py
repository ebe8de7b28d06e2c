"""What scoring a sample file is asked to do. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from evaluation.config import JudgingConfig, require, require_at_least

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(JudgingConfig):
    """Completions of any tool, judged without a model."""

    samples: Path
    """JSON lines with `task_id` and `completion`, in plain text or .gz."""
    ks: tuple[int, ...] = ()
    """The k of every pass@k; absent: 1, 10 and 100 as far as the samples reach."""
    partial: bool = False
    """Score only the problems in the file; else every problem must be there."""

    def __post_init__(self) -> None:
        require(
            self.samples.name.endswith(SUFFIXES),
            f"samples {self.samples} is no JSON-lines file by its name; need .jsonl or .jsonl.gz",
        )
        if self.ks:
            require_at_least("k", min(self.ks), 1)
        super().__post_init__()

    @property
    def stem(self) -> Path:
        """The sample file's path without its suffixes; results get this name."""
        name = self.samples.name.removesuffix(".gz").removesuffix(".jsonl")
        return self.samples.with_name(name)
