"""What scoring a sample file is asked to do. Imports nothing heavy."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.config import SandboxLimits, require, require_at_least

SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Completions of any tool, judged without a model."""

    samples: Path
    """JSON lines with `task_id` and `completion`, in plain text or .gz."""
    benchmark: str = "humaneval"
    """humaneval, mbpp, or a JSON-lines file (.jsonl or .jsonl.gz) in either schema."""
    dataset: str | None = None
    """Where the problems come from: a hub id or a JSON-lines file; absent: the benchmark's own."""
    template: str = "instruction"
    """Prompt template of MBPP problems."""
    ks: tuple[int, ...] = ()
    """The k of every pass@k; absent: 1, 10 and 100 as far as the samples reach."""
    timeout: float = 3.0
    """Seconds a program may run."""
    memory_mb: int = 1024
    """MiB a program may use."""
    allow_weak_sandbox: bool = False
    """Run programs where the sandbox lacks layers, too: on a machine you can lose."""
    workers: int = field(default_factory=lambda: max(1, os.cpu_count() or 1))
    """Programs run at once."""
    partial: bool = False
    """Score only the problems in the file; else every problem must be there."""
    self_check: bool = True
    """First prove that canonical solutions score 100 % and empty bodies 0 %."""

    def __post_init__(self) -> None:
        require(
            self.samples.name.endswith(SUFFIXES),
            f"samples {self.samples} is no JSON-lines file by its name; need .jsonl or .jsonl.gz",
        )
        require_at_least("workers", self.workers, 1)
        if self.ks:
            require_at_least("k", min(self.ks), 1)
        SandboxLimits(timeout=self.timeout, memory_mb=self.memory_mb)

    @property
    def limits(self) -> SandboxLimits:
        """Limits of every program."""
        return SandboxLimits(
            timeout=self.timeout, memory_mb=self.memory_mb, allow_weak=self.allow_weak_sandbox
        )

    @property
    def stem(self) -> Path:
        """The sample file's path without its suffixes; results get this name."""
        name = self.samples.name.removesuffix(".gz").removesuffix(".jsonl")
        return self.samples.with_name(name)
