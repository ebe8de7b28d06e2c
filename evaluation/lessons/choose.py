"""Which solutions become lessons: no near copies, and of a problem those that differ most."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cache.data.problems import SPLIT_TASK_IDS, read_problems
from evaluation.lessons.near_copies import canonical, most_different, squeezed
from evaluation.lessons.rows import Solution

AGREEING = 2
"""Different solutions that must pass an invented problem's tests."""
Known = Mapping[int, frozenset[str]]
"""Canonical texts that are no lessons again, by the task_id of their problem."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Lessons, and what was left out of those that could have been some."""

    lessons: tuple[Solution, ...]
    near_copies: int
    """The same as an earlier solution of the job but for names, comments and layout."""
    known: int
    """The same as one of the files that lessons are to be apart from."""
    over: int
    """Further ones than a problem may have."""
    unagreed: int
    """Invented problems that fewer than AGREEING different solutions passed."""


def choose(solutions: Iterable[Solution], known: Known, per_problem: int) -> Chosen:
    """The lessons among solutions that stand problem by problem, in the order of their samples."""
    lessons: list[Solution] = []
    near_copies = num_known = over = unagreed = 0
    for _, group in groupby(solutions, key=lambda solution: solution.question.name):
        different: dict[str, Solution] = {}
        for solution in group:
            text = canonical_text(solution)
            if text in known.get(solution.question.row.task_id, frozenset()):
                num_known += 1
            elif text in different:
                near_copies += 1
            else:
                different[text] = solution
        found = list(different.values())
        if found and found[0].question.is_invented and len(found) < AGREEING:
            unagreed += 1
            continue
        places = most_different(list(different), per_problem)
        lessons += [found[place] for place in places]
        over += len(found) - len(places)
    return Chosen(
        lessons=tuple(lessons),
        near_copies=near_copies,
        known=num_known,
        over=over,
        unagreed=unagreed,
    )


def canonical_text(solution: Solution) -> str:
    """What two near copies have in common; of code that may not compile, the text itself."""
    if not solution.verdict.passed:
        return squeezed(solution.code)
    problem = solution.question.problem
    return canonical(solution.code, problem.functions if problem else ())


def read_known(files: Sequence[Path], solutions: Sequence[Solution]) -> Known:
    """The canonical texts in files of MBPP's schema, of the problems of the solutions.

    Raises: CacheError when a file cannot be read.
    """
    names: dict[int, tuple[str, ...]] = {}
    for solution in solutions:
        problem = solution.question.problem
        if problem is not None:
            names[solution.question.row.task_id] = problem.functions
    known: dict[int, set[str]] = {}
    for path in files:
        for row in (row for split in SPLIT_TASK_IDS for row in read_problems(str(path), split)):
            if row.split_id in names:
                texts = known.setdefault(row.split_id, set())
                texts |= {canonical(row.code, names[row.split_id]), squeezed(row.code)}
    return {task_id: frozenset(texts) for task_id, texts in known.items()}
