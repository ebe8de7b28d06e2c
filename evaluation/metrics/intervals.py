"""Intervals for rates and their differences, and the resampling that pairs them.

Closed forms are used for pass rates: with no pass at all a bootstrap has no width, while these
still say how much may have been missed.
"""

import math
from collections.abc import Callable, Sequence
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
    return _wilson(num_passed / num_problems, num_problems, _z(level))


def mean_interval(scores: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
    """Interval of a mean over problems, each with a score in [0, 1], such as its pass@k.

    It says how far the mean would move with other problems of the same kind, and has width where
    all scores are equal, at 0 and 1 too. It is Wilson's for the number of yes-or-no problems whose
    rate would spread as much as this mean: as many as there are where all scores are 0 or 1. The
    spread is estimated with half a problem more at 0 and half at 1, as a few equal scores say
    little of it.

    Args:
        scores: (num_problems,).

    Raises: EvaluationError when there are none.
    Source: Wilson 1927; the effective number as in Korn and Graubard 1998, "Confidence intervals
        for proportions with small expected number of positive counts estimated from survey data".
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise EvaluationError("a mean over no problems has no interval; give at least one problem")
    mean = (values.sum() + 0.5) / (len(values) + 1)
    variance = ((values**2).sum() + 0.5) / (len(values) + 1) - mean**2
    number = len(values) * mean * (1 - mean) / variance
    rate = min(max(float(values.mean()), 0.0), 1.0)
    return _wilson(rate, float(number), _z(level))


def ratio_interval(
    both: int, only_first: int, only_second: int, *, level: float = 0.95
) -> Interval:
    """Interval of the first's rate over the second's, both on the same problems.

    It joins two Wilson intervals of a width that allows for how the verdicts go together.

    Raises: EvaluationError where the second passed nothing: there is no ratio.
    Source: Bonett and Price 2006, "Confidence intervals for a ratio of binomial proportions based
        on paired data"; recommended by Fagerland, Lydersen and Laake 2014.
    """
    first, second = both + only_first, both + only_second
    if second == 0:
        raise EvaluationError("a ratio to a model that passes nothing is undefined")
    total = both + only_first + only_second
    joint = math.sqrt((only_first + only_second + 2) / ((first + 1) * (second + 1)))
    apart = sum(math.sqrt((1 - (x + 1) / (total + 2)) / (x + 1)) for x in (first, second))
    z = _z(level) * joint / apart
    low_1, high_1 = _wilson(first / total, total, z)
    low_2, high_2 = _wilson(second / total, total, z)
    return low_1 / high_2, high_1 / low_2


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _wilson(rate: float, number: float, z: float) -> Interval:
    scale = 1 + z * z / number
    centre = (rate + z * z / (2 * number)) / scale
    spread = rate * (1 - rate) / number + z * z / (4 * number**2)
    half = z * math.sqrt(spread) / scale
    return (0.0 if rate == 0 else centre - half, 1.0 if rate == 1 else centre + half)


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
