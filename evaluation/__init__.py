"""Scores students and the live teacher on code benchmarks, under the same conditions.

`__all__` is what other programs may use; it stays as it is between releases of one number.
Everything else is private and may move. Importing `evaluation` costs no torch: a name loads what
it needs when it is first used.
"""

from typing import TYPE_CHECKING

from cache.machine.lazy_names import lazy_names

if TYPE_CHECKING:
    from evaluation.benchmark import run_benchmark
    from evaluation.config import BenchmarkConfig, ScoreConfig
    from evaluation.errors import EvaluationError
    from evaluation.judging.score import score_samples
    from evaluation.metrics.passk import pass_at_k
    from evaluation.problems.benchmarks import load_benchmark

__all__ = [
    "BenchmarkConfig",
    "EvaluationError",
    "ScoreConfig",
    "pass_at_k",
    "load_benchmark",
    "run_benchmark",
    "score_samples",
]

__getattr__ = lazy_names(
    "evaluation",
    {
        "BenchmarkConfig": "evaluation.config",
        "EvaluationError": "evaluation.errors",
        "ScoreConfig": "evaluation.config",
        "pass_at_k": "evaluation.metrics.passk",
        "load_benchmark": "evaluation.problems.benchmarks",
        "run_benchmark": "evaluation.benchmark",
        "score_samples": "evaluation.judging.score",
    },
)
