"""Completions to verdicts to scores."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.completions import Sample
from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.files import write_text
from evaluation.metrics import compute_pass_at_k
from evaluation.problems import Benchmark, BenchmarkProblem
from evaluation.sandbox import Verdict, run_many

# Canonical solutions prove that the harness can say yes; slow ones get this much more time.
SELF_CHECK_PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a set of samples is worth."""

    pass_at: dict[int, float]
    """pass@k in [0, 1] by k, the mean over problems."""
    intervals: dict[int, tuple[float, float]]
    """95 % bootstrap interval over problems by k."""
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
    programs = [by_id[samples[i].task_id].program(samples[i].completion) for i in to_run]
    for index, verdict in zip(to_run, run_many(programs, limits, workers, on_done), strict=True):
        verdicts[index] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def _without_running(sample: Sample) -> Verdict | None:
    if sample.finish == "prompt_too_long":
        return Verdict(passed=False, outcome="prompt_too_long", seconds=0.0)
    if not sample.completion.strip():
        return Verdict(passed=False, outcome="empty", seconds=0.0)
    return None


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
    write_text(path, "".join(f"{line}\n" for line in lines))


def check_benchmark(
    benchmark: Benchmark,
    limits: SandboxLimits,
    workers: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[str]:
    """Prove the harness on these problems: canonical solutions pass, empty bodies fail.

    Returns: remarks on problems whose canonical solution is slower than the limit, or contains
        a stop sequence.

    Raises: EvaluationError naming the problems that contradict this.
    """
    patient = SandboxLimits(
        timeout=limits.timeout * SELF_CHECK_PATIENCE, memory_mb=limits.memory_mb
    )
    problems = benchmark.problems
    solved = run_many(
        [problem.program(problem.canonical_solution) for problem in problems],
        patient,
        workers,
        on_done,
    )
    # In a prompt that ends in a function's head the body is indented.
    trivial = run_many(
        [problem.program("    pass\n" if problem.preamble else "pass\n") for problem in problems],
        limits,
        workers,
        on_done,
    )
    _require_none(
        [
            f"{problem.task_id} ({verdict.outcome} {verdict.message})".replace(" )", ")")
            for problem, verdict in zip(problems, solved, strict=True)
            if not verdict.passed
        ],
        "canonical solutions do not pass",
        "Mend those problems, raise timeout or memory_mb, or skip the check with --no-self-check",
    )
    _require_none(
        [p.task_id for p, verdict in zip(problems, trivial, strict=True) if verdict.passed],
        "problems are passed by a body of `pass`",
        "Their tests check nothing: mend them, or skip the check with --no-self-check",
    )
    return [
        f"{problem.task_id}: its canonical solution takes {verdict.seconds:.1f} s, "
        f"over the limit of {limits.timeout:g} s"
        for problem, verdict in zip(problems, solved, strict=True)
        if verdict.seconds > limits.timeout
    ] + [
        f"{problem.task_id}: its canonical solution contains a stop sequence"
        for problem in problems
        if any(stop in problem.canonical_solution for stop in problem.stop)
    ]


def _require_none(failed: list[str], what: str, remedy: str) -> None:
    if failed:
        raise EvaluationError(
            f"the benchmark cannot be trusted: {len(failed)} {what}: "
            f"{', '.join(failed[:5])}{' …' if len(failed) > 5 else ''}. {remedy}"
        )
