from itertools import combinations

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.metrics.evaluate_metrics import compute_pass_at_k
from evaluation.metrics.intervals import wilson_interval
from evaluation.metrics.passk import pass_at_k, pass_at_k_per_problem


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_equals_enumeration_of_all_draws(num_samples):
    for num_passed in range(num_samples + 1):
        samples = [True] * num_passed + [False] * (num_samples - num_passed)
        for k in range(1, num_samples + 1):
            draws = list(combinations(samples, k))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(num_samples, num_passed, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


def test_plain_formula_would_be_biased():
    assert pass_at_k(10, 5, 5) > 1 - (1 - 5 / 10) ** 5


def test_k_above_the_samples_is_refused():
    with pytest.raises(EvaluationError, match="pass@10 needs at least 10 samples"):
        pass_at_k(5, 1, 10)


def test_impossible_count_is_refused():
    with pytest.raises(EvaluationError, match="6 of 5 samples passed"):
        pass_at_k(5, 6, 1)


def test_no_problems_are_refused():
    with pytest.raises(EvaluationError, match="pass@k of no problems is undefined"):
        pass_at_k_per_problem([], 1)


def test_metric_averages_over_problems():
    verdicts = {"a": [True, False, False], "b": [False, False, False]}
    scores = compute_pass_at_k(verdicts, (1, 2))
    assert scores["pass@1"] == pytest.approx(np.mean([1 / 3, 0]))
    assert scores["pass@2"] == pytest.approx(np.mean([2 / 3, 0]))
    low, high = scores["pass@1_interval"]
    assert 0 < low < 1 / 6 and 1 / 3 < high < 1


@pytest.mark.parametrize("passed", [True, False])
def test_samples_that_all_end_alike_are_worth_one_verdict_a_problem(passed):
    scores = compute_pass_at_k({"a": [passed] * 3}, (1, 2))
    expected = wilson_interval(int(passed), 1)
    assert scores["pass@1_interval"] == scores["pass@2_interval"] == pytest.approx(expected)


def test_metric_refuses_k_above_the_samples():
    with pytest.raises(EvaluationError, match="pass@2 needs at least 2 samples"):
        compute_pass_at_k({"a": [True]}, (2,))
