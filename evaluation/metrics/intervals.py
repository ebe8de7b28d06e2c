"""Intervals for rates and their differences, and the resampling that pairs them.

Closed forms are used where the data are one yes or no a problem: with no pass at all a
bootstrap has no width, while these still say how much may have been missed.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from evaluation.errors import EvaluationError

Interval = tuple[float, float]

RESAMPLES = 2000


def wilson_interval(num_passed: int, num_problems: int, *, level: float = 0.95) -> Interval:
    """Score interval of a rate; it has width even at 0 and at 1.

    Raises: EvaluationError when the counts make no sense.
    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not 0 <= num_passed <= num_problems or num_problems < 1:
        raise EvaluationError(
            f"{num_passed} of {num_problems} problems passed; need at least one problem and "
            "no more passed than there are"
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = num_passed / num_problems
    scale = 1 + z * z / num_problems
    centre = (rate + z * z / (2 * num_problems)) / scale
    spread = rate * (1 - rate) / num_problems + z * z / (4 * num_problems**2)
    half = z * math.sqrt(spread) / scale
    return (
        0.0 if num_passed == 0 else centre - half,
        1.0 if num_passed == num_problems else centre + half,
    )


def paired_difference_interval(
    both: int, only_first: int, only_second: int, neither: int, *, level: float = 0.95
) -> Interval:
    """Interval of the first's rate minus the second's, both on the same problems.

    It joins the two Wilson intervals, allowing for how the verdicts go together.

    Raises: EvaluationError when the counts make no sense.
    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial
        proportions based on paired data", method 10.
    """
    total = both + only_first + only_second + neither
    first, second = (both + only_first) / max(total, 1), (both + only_second) / max(total, 1)
    low_1, high_1 = wilson_interval(both + only_first, total, level=level)
    low_2, high_2 = wilson_interval(both + only_second, total, level=level)
    phi = _paired_correlation(both, only_first, only_second, neither)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = first - second
    return (
        difference - reach(first - low_1, high_2 - second),
        difference + reach(high_1 - first, second - low_2),
    )


def _paired_correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Correlation of the verdicts, lowered towards 0 by half a table, as Newcombe does."""
    margins = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if margins == 0:
        return 0.0
    determinant = both * neither - only_first * only_second
    if determinant > 0:
        half_table = (both + only_first + only_second + neither) / 2
        determinant = max(determinant - half_table, 0)  # type: ignore[assignment]
    return determinant / math.sqrt(margins)


def bootstrap_over_problems(
    statistic: Callable[[np.ndarray], np.ndarray],
    num_problems: int,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Percentile interval of a statistic over resampled problems, with a fixed seed.

    Args:
        statistic: takes problem numbers, (resamples, num_problems) int64, and gives
            (resamples,) float64. NaN where it is undefined; those resamples are left out.

    Returns: None where more than half of the resamples are undefined.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    rng = np.random.default_rng(0)
    values = statistic(rng.integers(0, num_problems, size=(resamples, num_problems)))
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < resamples:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
