"""The harness proves itself on the problems at hand, or there is no score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.config import JudgingConfig, SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.judging.progress import Stages
from evaluation.judging.trivial import trivial_answers
from evaluation.problems.benchmarks import Benchmark, BenchmarkProblem
from evaluation.sandbox.checks import Verdict, run_many

# Canonical solutions prove that the harness can say yes; slow ones get this much more time.
PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What the harness made of answers whose worth is known."""

    canonical: int
    """Canonical solutions that passed: all of them."""
    trivial: dict[str, int]
    """Problems passed by each trivial body, of those it was tried on: none."""
    num_problems: int
    remarks: tuple[str, ...]
    """Problems whose canonical solution is slower than the limit, or contains a stop."""

    @property
    def sentence(self) -> str:
        """The check in one sentence, for reports."""
        return (
            f"{self.canonical} of {self.num_problems} canonical solutions pass, and no problem is "
            f"passed by a trivial body ({', '.join(self.trivial)})."
        )


def prove_benchmark(
    benchmark: Benchmark, config: JudgingConfig, stages: Stages
) -> SelfCheck | None:
    """`check_benchmark` as the configuration asks for it, with its progress; None if it does not.

    Raises: EvaluationError as `check_benchmark`.
    """
    if not config.self_check:
        return None
    return check_benchmark(
        benchmark,
        config.limits,
        config.workers,
        lambda total: stages("self-check", "canonical and trivial solutions", 1, total),
    )


def check_benchmark(
    benchmark: Benchmark,
    limits: SandboxLimits,
    workers: int,
    on_done: Callable[[int], None] = lambda total: None,
) -> SelfCheck:
    """Prove the harness on these problems: canonical solutions pass, trivial bodies fail.

    `on_done` is called after each program with the number of all.

    Raises: EvaluationError naming the problems that contradict this.
    """
    patient = SandboxLimits(
        timeout=limits.timeout * PATIENCE,
        memory_mb=limits.memory_mb,
        allow_weak=limits.allow_weak,
    )
    problems = benchmark.problems
    answers = trivial_answers(problems)
    total = len(problems) + sum(map(len, answers.values()))

    def count() -> None:
        on_done(total)

    canonical = [problem.program(problem.canonical_solution) for problem in problems]
    solved = run_many(canonical, patient, workers, count)
    _require_none(
        [
            f"{problem.task_id} ({verdict.outcome} {verdict.message})".replace(" )", ")")
            for problem, verdict in zip(problems, solved, strict=True)
            if not verdict.passed
        ],
        "canonical solutions do not pass",
        "Mend those problems, raise timeout or memory_mb, or skip the check with --no-self-check",
    )
    trivial = {}
    for body, tried in answers.items():
        programs = [problem.program(completion) for problem, completion in tried]
        verdicts = run_many(programs, limits, workers, count)
        passed = [p.task_id for (p, _), v in zip(tried, verdicts, strict=True) if v.passed]
        _require_none(
            passed,
            f"problems are passed by a body of `{body}`",
            "Their tests check nothing: mend them, or skip the check with --no-self-check",
        )
        trivial[body] = len(passed)
    return SelfCheck(
        canonical=sum(verdict.passed for verdict in solved),
        trivial=trivial,
        num_problems=len(problems),
        remarks=tuple(_remarks(problems, solved, limits)),
    )


def _remarks(
    problems: Sequence[BenchmarkProblem], solved: Sequence[Verdict], limits: SandboxLimits
) -> list[str]:
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
