"""Problems whose tests can be trusted: their own solution passes, and trivial bodies do not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluation.config import SandboxLimits
from evaluation.judging.self_check import PATIENCE
from evaluation.problems.benchmarks import BenchmarkProblem
from evaluation.sandbox.checks import run_many

Answers = Mapping[str, Sequence[tuple[BenchmarkProblem, str]]]
"""As `evaluation.judging.trivial.trivial_answers` gives them."""


def find_untrusted(
    problems: Sequence[BenchmarkProblem], trivial: Answers, limits: SandboxLimits, workers: int
) -> tuple[dict[str, str], int]:
    """Why the tests of some of the problems tell nothing, by task_id; and how many programs ran.

    Args:
        problems: those without a solution are tried with the trivial ones alone.
        trivial: trivial completions of these and of other problems.
    """
    solved = [problem for problem in problems if problem.canonical_solution]
    patient = replace(limits, timeout=limits.timeout * PATIENCE)
    own = [problem.program(problem.canonical_solution) for problem in solved]
    found = {
        problem.task_id: f"its own solution does not pass: {verdict.outcome} {verdict.message}"
        for problem, verdict in zip(solved, run_many(own, patient, workers), strict=True)
        if not verdict.passed
    }
    wanted = {problem.task_id for problem in problems} - set(found)
    tried = [
        (body, problem, completion)
        for body, answers in trivial.items()
        for problem, completion in answers
        if problem.task_id in wanted
    ]
    programs = [problem.program(completion) for _, problem, completion in tried]
    verdicts = run_many(programs, limits, workers)
    for (body, problem, _), verdict in zip(tried, verdicts, strict=True):
        if verdict.passed:
            found.setdefault(problem.task_id, f"its tests are passed by a body of `{body}`")
    return {name: reason.strip() for name, reason in found.items()}, len(own) + len(tried)
