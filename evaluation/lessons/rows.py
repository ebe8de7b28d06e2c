"""Solutions as rows in MBPP's schema, with where they come from."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.generation.completions import Sample
from evaluation.lessons.ask import Question
from evaluation.sandbox.checks import Verdict

IDS_PER_PROBLEM = 10**9


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A sample and its verdict."""

    question: Question
    sample: Sample
    verdict: Verdict

    @property
    def code(self) -> str:
        """What was judged."""
        return self.sample.completion


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is the same for all rows of a file."""

    origin: str
    """teacher or student."""
    writer: str
    """Name of the model that wrote."""
    writer_identity: str
    """Names its weights."""
    teacher: str
    """Who the lessons are written for."""
    settings: str
    """How they were drawn, in a line."""
    stops: tuple[str, ...]
    """Texts that ended them."""
    judging: str
    """How they were judged, in a line."""


def lesson_row(solution: Solution, provenance: Provenance) -> dict[str, Any]:
    """A row that `cache-teacher` reads: in the split of its problem, under a number of its own."""
    problem = solution.question.row
    return {
        "task_id": lesson_id(problem.split_id, problem.text, solution.code),
        "text": problem.text,
        "code": solution.code,
        "test_list": list(problem.test_list),
        "test_setup_code": problem.test_setup_code,
        "challenge_test_list": list(problem.challenge_test_list),
        "problem_id": problem.split_id,
        "origin": provenance.origin,
        "provenance": _provenance(solution, provenance),
    }


def failed_row(solution: Solution, provenance: Provenance) -> dict[str, Any]:
    """A solution that was not kept, and why, with all that was generated."""
    problem = solution.question.row
    invented = {"text": problem.text, "test_list": list(problem.test_list)}
    return {
        "problem_id": problem.split_id,
        **(invented if solution.question.is_invented else {}),
        "reason": solution.verdict.outcome,
        "message": solution.verdict.message,
        "code": solution.code,
        "raw": solution.sample.raw,
        "provenance": _provenance(solution, provenance),
    }


def lesson_id(task_id: int, *texts: str) -> int:
    """A number for what comes from a problem: the same for the same texts, whoever wrote them."""
    digest = hashlib.sha256("\0".join(texts).encode()).digest()
    return task_id * IDS_PER_PROBLEM + int.from_bytes(digest[:8], "big") % IDS_PER_PROBLEM


def _provenance(solution: Solution, provenance: Provenance) -> dict[str, Any]:
    shared = asdict(provenance)
    del shared["origin"]
    return {
        **shared,
        **({"invented": True} if solution.question.is_invented else {}),
        "sample": solution.sample.sample,
        "finish": solution.sample.finish,
        "tokens": solution.sample.tokens,
        "verdict": f"{solution.verdict.outcome}|mode:{solution.verdict.mode}",
    }
