"""The harness proves itself on the problems at hand, or there is no score."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.config import JudgingConfig, SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.judging.progress import Stages
from evaluation.problems.benchmarks import Benchmark, BenchmarkProblem
from evaluation.sandbox.checks import Verdict, run_many

# Canonical solutions prove that the harness can say yes; slow ones get this much more time.
PATIENCE = 10
FIRST = "return its first argument"
TRIVIAL_BODIES = ("pass", "return None", "return 0", "return []", "return True", FIRST)
RUNS_PER_PROBLEM = 1 + len(TRIVIAL_BODIES)


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What the harness made of answers whose worth is known."""

    canonical: int
    """Canonical solutions that passed: all of them."""
    trivial: dict[str, int]
    """Problems passed by each trivial body: none."""
    num_problems: int
    remarks: tuple[str, ...]
    """Problems whose canonical solution is slower than the limit, or contains a stop."""

    @property
    def sentence(self) -> str:
        """The check in one sentence, for reports."""
        return (
            f"{self.canonical} of {self.num_problems} canonical solutions pass, and "
            f"{sum(self.trivial.values())} of {len(self.trivial)} × {self.num_problems} trivial "
            f"bodies ({', '.join(self.trivial)})."
        )


def prove_benchmark(
    benchmark: Benchmark, config: JudgingConfig, stages: Stages
) -> SelfCheck | None:
    """`check_benchmark` as the configuration asks for it, with its progress; None if it does not.

    Raises: EvaluationError as `check_benchmark`.
    """
    if not config.self_check:
        return None
    total = RUNS_PER_PROBLEM * len(benchmark.problems)
    return check_benchmark(
        benchmark,
        config.limits,
        config.workers,
        lambda: stages("self-check", "canonical and trivial solutions", 1, total),
    )


def check_benchmark(
    benchmark: Benchmark,
    limits: SandboxLimits,
    workers: int,
    on_done: Callable[[], None] = lambda: None,
) -> SelfCheck:
    """Prove the harness on these problems: canonical solutions pass, trivial bodies fail.

    `on_done` is called RUNS_PER_PROBLEM times for each problem.

    Raises: EvaluationError naming the problems that contradict this.
    """
    patient = SandboxLimits(
        timeout=limits.timeout * PATIENCE,
        memory_mb=limits.memory_mb,
        allow_weak=limits.allow_weak,
    )
    problems = benchmark.problems
    canonical = [problem.program(problem.canonical_solution) for problem in problems]
    solved = run_many(canonical, patient, workers, on_done)
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
    for body in TRIVIAL_BODIES:
        programs = [problem.program(trivial_completion(problem, body)) for problem in problems]
        verdicts = run_many(programs, limits, workers, on_done)
        passed = [p.task_id for p, v in zip(problems, verdicts, strict=True) if v.passed]
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


def trivial_completion(problem: BenchmarkProblem, body: str) -> str:
    """The completion that makes a trivial body of the problem's function or functions."""
    if problem.preamble:  # it ends in the function's head
        return f"    {_statement(body, _first_parameter(problem))}\n"
    names = (problem.entry_point, *problem.other_entry_points)
    return "".join(
        f"def {name}(*arguments):\n    {_statement(body, 'arguments[0]')}\n" for name in names
    )


def _statement(body: str, first: str | None) -> str:
    if body != FIRST:
        return body
    return f"return {first}" if first else "pass"


def _first_parameter(problem: BenchmarkProblem) -> str | None:
    try:
        tree = ast.parse(f"{problem.preamble}    pass\n")
    except SyntaxError:
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            arguments = [*node.args.posonlyargs, *node.args.args]
            return arguments[0].arg if arguments else None
    return None


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
