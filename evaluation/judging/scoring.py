"""Completions to verdicts to scores."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.machine.durable import write_text
from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample
from evaluation.metrics.evaluate_metrics import compute_pass_at_k
from evaluation.problems.benchmarks import BenchmarkProblem
from evaluation.sandbox.checks import Verdict, run_many


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a set of samples is worth."""

    pass_at: dict[int, float]
    """pass@k in [0, 1] by k, the mean over problems."""
    intervals: dict[int, tuple[float, float]]
    """95 % interval over problems by k."""
    outcomes: dict[str, int]
    """Number of samples by outcome, most frequent first."""
    num_problems: int
    num_samples: int


def judge(
    samples: Sequence[Sample],
    problems: Sequence[BenchmarkProblem],
    limits: SandboxLimits,
    workers: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[Verdict]:
    """Verdicts of the samples, in their order; an empty completion fails without being run."""
    by_id = {problem.task_id: problem for problem in problems}
    verdicts: list[Verdict | None] = [_without_running(sample) for sample in samples]
    to_run = [index for index, verdict in enumerate(verdicts) if verdict is None]
    for _ in range(len(samples) - len(to_run)):
        on_done()
    programs = [
        by_id[samples[i].task_id].program(samples[i].completion, whole=samples[i].whole)
        for i in to_run
    ]
    for index, verdict in zip(to_run, run_many(programs, limits, workers, on_done), strict=True):
        verdicts[index] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def _without_running(sample: Sample) -> Verdict | None:
    if sample.completion.strip():
        return None  # whatever its file says of it
    outcome = "prompt_too_long" if sample.finish == "prompt_too_long" else "empty"
    return Verdict(passed=False, outcome=outcome, seconds=0.0, mode="not_run")


def summarize(samples: Sequence[Sample], verdicts: Sequence[Verdict], ks: Sequence[int]) -> Scores:
    """pass@k and the outcomes of judged samples."""
    by_task: dict[str, list[bool]] = defaultdict(list)
    for sample, verdict in zip(samples, verdicts, strict=True):
        by_task[sample.task_id].append(verdict.passed)
    result = compute_pass_at_k(by_task, ks)
    return Scores(
        pass_at={k: result[f"pass@{k}"] for k in ks},
        intervals={k: result[f"pass@{k}_interval"] for k in ks},
        outcomes=dict(Counter(verdict.outcome for verdict in verdicts).most_common()),
        num_problems=len(by_task),
        num_samples=len(samples),
    )


def save_verdicts(path: Path, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> None:
    """Samples with their verdicts as JSON lines, whole or not at all."""
    lines = [
        json.dumps({**asdict(sample), **asdict(verdict)})
        for sample, verdict in zip(samples, verdicts, strict=True)
    ]
    write_text(path, "".join(f"{line}\n" for line in lines), EvaluationError)
