"""A student against its teacher, problem by problem: both met the same problems."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.metrics.intervals import (
    Interval,
    mean_interval,
    paired_difference_interval,
    ratio_interval,
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a student's verdicts differ from its teacher's on the same problems."""

    both: int
    """Problems that student and teacher solve greedily."""
    only_student: int
    only_teacher: int
    neither: int
    mcnemar_p: float
    """Two-sided p of exact McNemar's test on the greedy verdicts."""
    greedy_difference: float
    """Student's greedy pass@1 minus the teacher's, in [-1, 1]."""
    greedy_difference_interval: Interval
    """95 %, Newcombe's method 10 for paired rates."""
    sampled_difference: float | None
    """Student's sampled pass@1 minus the teacher's; None without samples."""
    sampled_difference_interval: Interval | None
    """95 %, of the problems' differences; see `mean_interval`."""
    kept_percent: float | None
    """Greedy pass@1 in percent of the teacher's; None where the teacher solves nothing."""
    kept_percent_interval: Interval | None
    """95 %, Bonett and Price's for paired rates."""

    @property
    def num_problems(self) -> int:
        """Problems compared."""
        return self.both + self.only_student + self.only_teacher + self.neither

    @staticmethod
    def from_json(comparison: dict[str, Any]) -> "Comparison":
        """The comparison of a JSON file, where intervals are lists."""
        content: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in comparison.items()
        }
        return Comparison(**content)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that the problems solved by one alone fall to either alike.

    Twice the smaller tail of Binomial(only_first + only_second, 1/2), at most 1; in integers,
    so that it is exact for any counts.

    Source: McNemar 1947; exact form as in Fagerland, Lydersen and Laake 2013, section 2.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def compare_verdicts(
    student_greedy: Mapping[str, bool],
    teacher_greedy: Mapping[str, bool],
    student_sampled: Mapping[str, tuple[int, int]],
    teacher_sampled: Mapping[str, tuple[int, int]],
) -> Comparison:
    """The comparison of two models' verdicts, by task id.

    Args:
        student_greedy, teacher_greedy: whether the greedy completion passed.
        student_sampled, teacher_sampled: passes and samples of each problem; both empty
            without samples.

    Raises: EvaluationError when the two were not judged on the same problems.
    """
    _require_same(student_greedy, teacher_greedy)
    tasks = sorted(teacher_greedy)
    student = np.array([student_greedy[task] for task in tasks], dtype=bool)
    teacher = np.array([teacher_greedy[task] for task in tasks], dtype=bool)
    both = int((student & teacher).sum())
    only_student, only_teacher = int((student & ~teacher).sum()), int((teacher & ~student).sum())
    neither = len(tasks) - both - only_student - only_teacher
    sampled, sampled_interval = _sampled_difference(student_sampled, teacher_sampled)
    kept, kept_interval = _kept_percent(both, only_student, only_teacher)
    return Comparison(
        both=both,
        only_student=only_student,
        only_teacher=only_teacher,
        neither=neither,
        mcnemar_p=mcnemar_exact(only_student, only_teacher),
        greedy_difference=(only_student - only_teacher) / len(tasks),
        greedy_difference_interval=paired_difference_interval(
            both, only_student, only_teacher, neither
        ),
        sampled_difference=sampled,
        sampled_difference_interval=sampled_interval,
        kept_percent=kept,
        kept_percent_interval=kept_interval,
    )


def _kept_percent(
    both: int, only_student: int, only_teacher: int
) -> tuple[float | None, Interval | None]:
    if both + only_teacher == 0:
        return None, None
    low, high = ratio_interval(both, only_student, only_teacher)
    kept = 100 * (both + only_student) / (both + only_teacher)
    return kept, (100 * low, 100 * high)


def _sampled_difference(
    student: Mapping[str, tuple[int, int]], teacher: Mapping[str, tuple[int, int]]
) -> tuple[float | None, Interval | None]:
    if not student and not teacher:
        return None, None
    _require_same(student, teacher)
    differences = np.array(
        [student[task][0] / student[task][1] - teacher[task][0] / teacher[task][1]
         for task in sorted(teacher)]
    )  # fmt: skip
    low, high = mean_interval((differences + 1) / 2)
    return float(differences.mean()), (2 * low - 1, 2 * high - 1)


def _require_same(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> None:
    if not student or set(student) != set(teacher):
        odd = sorted(set(student) ^ set(teacher))
        raise EvaluationError(
            f"student and teacher were judged on different problems ({len(student)} and "
            f"{len(teacher)}{', such as ' + odd[0] if odd else ''}). A paired comparison needs "
            "the same ones: evaluate both in one run"
        )
