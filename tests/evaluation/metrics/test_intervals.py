import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.errors import EvaluationError
from evaluation.metrics.intervals import (
    bootstrap_over_problems,
    mean_interval,
    paired_difference_interval,
    ratio_interval,
    wilson_interval,
)


@pytest.mark.parametrize("total", [1, 7, 164, 500])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_interval_equals_scipys(total, level):
    for passed in {0, 1, total // 3, total}:
        expected = binomtest(passed, total).proportion_ci(level, method="wilson")
        assert wilson_interval(passed, total, level=level) == pytest.approx(expected, abs=1e-12)


def test_wilson_interval_has_width_where_nothing_and_where_all_passed():
    assert wilson_interval(0, 164) == (0.0, pytest.approx(0.0229, abs=1e-4))
    assert wilson_interval(164, 164) == (pytest.approx(0.9771, abs=1e-4), 1.0)


def test_mean_of_yes_or_no_gets_wilsons_interval():
    for passed, total in ((0, 1), (1, 1), (3, 10), (0, 164), (41, 164)):
        scores = [1.0] * passed + [0.0] * (total - passed)
        assert mean_interval(scores) == pytest.approx(wilson_interval(passed, total))


def test_mean_of_many_scores_gets_the_normal_interval():
    values = np.random.default_rng(1).random(400)
    half = 1.96 * values.std(ddof=1) / 20
    expected = (values.mean() - half, values.mean() + half)
    assert mean_interval(values) == pytest.approx(expected, abs=0.1 * half)


def test_mean_of_equal_scores_has_width():
    for score in (0.0, 0.3, 1.0):
        low, high = mean_interval([score] * 20)
        assert low <= score <= high and 0.05 < high - low < 0.4


def test_mean_over_no_problems_is_refused():
    with pytest.raises(EvaluationError, match="a mean over no problems has no interval"):
        mean_interval([])


@pytest.mark.parametrize(("a", "b"), [(0.5, 2.0), (0.1, 3.0), (1.0, 1.0), (5.0, 0.3)])
@pytest.mark.parametrize("num_problems", [12, 164])
def test_mean_interval_covers_the_mean_of_all_problems(a, b, num_problems):
    """Problems of all difficulties, each with the rate of 20 samples."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(20, rng.beta(a, b, size=(1000, num_problems))) / 20
    intervals = np.array([mean_interval(row) for row in rates])
    covered = np.mean((intervals[:, 0] <= a / (a + b)) & (a / (a + b) <= intervals[:, 1]))
    assert covered > 0.93


def test_ratio_interval_covers_the_true_ratio():
    rng = np.random.default_rng(0)
    cells = np.array([0.1, 0.04, 0.16, 0.7])  # both, first, second, neither
    tables = rng.multinomial(164, cells, size=2000)
    intervals = [ratio_interval(*map(int, table[:3])) for table in tables]
    covered = np.mean([low <= 0.14 / 0.26 <= high for low, high in intervals])
    assert 0.93 < covered < 0.98


def test_ratio_to_nothing_is_refused():
    with pytest.raises(EvaluationError, match="a ratio to a model that passes nothing is undef"):
        ratio_interval(0, 3, 0)


@pytest.mark.parametrize(("passed", "total"), [(2, 1), (-1, 5), (0, 0)])
def test_impossible_counts_are_refused(passed, total):
    with pytest.raises(EvaluationError, match=f"{passed} of {total} problems passed; need"):
        wilson_interval(passed, total)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Fagerland, Lydersen and Laake 2017, "Statistical Analysis of Contingency Tables",
        # chapter 8: airway hyper-responsiveness (Bentur 2009) and complete response (Cavo 2012).
        ((1, 1, 7, 12), (-0.507, -0.026)),
        ((59, 6, 16, 80), (-0.1186, -0.0046)),
    ],
)
def test_paired_difference_equals_published_intervals(table, expected):
    digits = 0.5 * 10.0 ** -len(str(expected[0]).split(".")[1])
    assert paired_difference_interval(*table) == pytest.approx(expected, abs=digits)


def test_uncorrelated_pairs_get_the_interval_of_independent_samples():
    # 10 problems, 3 against 6 passed; statsmodels 0.15: confint_proportions_2indep(3, 10, 6, 10,
    # method="newcomb"). The table 2, 1, 4, 3 is as good as independent.
    expected = (-0.601138766, 0.117731797)
    assert paired_difference_interval(2, 1, 4, 3) == pytest.approx(expected, abs=1e-6)


def test_swapping_the_two_models_mirrors_the_interval():
    low, high = paired_difference_interval(5, 2, 47, 110)
    assert paired_difference_interval(5, 47, 2, 110) == pytest.approx((-high, -low))


def test_models_that_solve_nothing_may_still_differ():
    low, high = paired_difference_interval(0, 0, 0, 164)
    assert -low == high == pytest.approx(wilson_interval(0, 164)[1])


def test_paired_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    cells = np.array([0.1, 0.04, 0.16, 0.7])  # both, first, second, neither: difference -0.12
    tables = rng.multinomial(164, cells, size=2000)
    intervals = [paired_difference_interval(*map(int, table)) for table in tables]
    covered = np.mean([low <= -0.12 <= high for low, high in intervals])
    assert 0.93 < covered < 0.98


def test_bootstrap_leaves_undefined_resamples_out_and_gives_up_on_too_many():
    values = np.array([np.nan, 1.0, 1.0, 1.0])

    def first(chosen):
        return values[chosen[:, 0]]

    assert bootstrap_over_problems(first, 4) == (1.0, 1.0)
    assert bootstrap_over_problems(lambda chosen: np.full(len(chosen), np.nan), 4) is None


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(1).random(400)
    low, high = bootstrap_over_problems(lambda chosen: values[chosen].mean(axis=1), 400)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
