import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.errors import EvaluationError
from evaluation.metrics.paired import Comparison, compare_verdicts, mcnemar_exact

TASKS = [f"T/{i}" for i in range(100)]


def verdicts(*passed):
    return {task: i in passed for i, task in enumerate(TASKS)}


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(1, 7), (6, 16), (2, 47), (5, 0), (3, 3), (10, 11), (400, 350)]
)
def test_mcnemar_equals_scipys_binomial_test(only_first, only_second):
    expected = binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar_exact(only_first, only_second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_equals_the_published_example():
    # Bentur 2009 in Fagerland, Lydersen and Laake 2013: 1 against 7 discordant pairs, P = 0.0703.
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_without_discordant_problems_there_is_no_evidence_of_a_difference():
    assert mcnemar_exact(0, 0) == 1.0


def test_problems_are_counted_by_who_solves_them():
    comparison = compare_verdicts(verdicts(0, 1, 2), verdicts(1, 2, 3, 4, 5, 6, 7, 8), {}, {})
    counts = (comparison.both, comparison.only_student, comparison.only_teacher, comparison.neither)
    assert counts == (2, 1, 6, 91) and comparison.num_problems == 100
    assert comparison.mcnemar_p == pytest.approx(2 * (1 + 7) / 2**7)
    assert comparison.greedy_difference == pytest.approx(-0.05)
    low, high = comparison.greedy_difference_interval
    assert low < -0.05 < high
    assert comparison.kept_percent == pytest.approx(100 * 3 / 8)
    assert comparison.sampled_difference is comparison.sampled_difference_interval is None


def test_order_of_problems_does_not_matter():
    shuffled = dict(reversed(verdicts(1, 2, 3).items()))
    same = compare_verdicts(verdicts(1), verdicts(1, 2, 3), {}, {})
    assert compare_verdicts(verdicts(1), shuffled, {}, {}) == same


def test_kept_interval_is_close_to_resampling():
    student, teacher = verdicts(*range(10)), verdicts(*range(5, 35))
    comparison = compare_verdicts(student, teacher, {}, {})
    rng = np.random.default_rng(7)
    a, b = np.array(list(student.values())), np.array(list(teacher.values()))
    ratios = []
    for _ in range(4000):
        chosen = rng.choice(100, size=100)
        ratios.append(100 * a[chosen].sum() / b[chosen].sum())
    expected = np.quantile(ratios, [0.025, 0.975])
    assert comparison.kept_percent_interval == pytest.approx(expected, abs=4)


def test_nothing_is_kept_of_a_teacher_that_solves_nothing():
    comparison = compare_verdicts(verdicts(1), verdicts(), {}, {})
    assert comparison.kept_percent is comparison.kept_percent_interval is None


def test_what_is_kept_is_not_certain_where_all_or_nothing_is():
    everything = compare_verdicts(verdicts(0), verdicts(0), {}, {})
    assert everything.kept_percent == 100
    low, high = everything.kept_percent_interval
    assert low < 50 and high > 200
    nothing = compare_verdicts(verdicts(), verdicts(*range(20)), {}, {})
    assert nothing.kept_percent == 0
    low, high = nothing.kept_percent_interval
    assert low == 0 and 10 < high < 30


def test_models_with_equal_samples_may_still_differ():
    sampled = dict.fromkeys(TASKS, (0, 4))
    comparison = compare_verdicts(verdicts(), verdicts(), sampled, sampled)
    low, high = comparison.sampled_difference_interval
    assert comparison.sampled_difference == 0
    assert -low == pytest.approx(high) and 0.015 < high < 0.04  # of 100: some 3/100


def test_sampled_difference_is_paired_and_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    teacher = {task: (int(20 * p), 20) for task, p in zip(TASKS, hard, strict=True)}
    student = {task: (passed // 2, 10) for task, (passed, _) in teacher.items()}
    comparison = compare_verdicts(verdicts(), verdicts(), student, teacher)
    rates = {task: passed / n for task, (passed, n) in teacher.items()}
    expected = np.mean([student[task][0] / 10 - rates[task] for task in TASKS])
    assert comparison.sampled_difference == pytest.approx(expected)
    low, high = comparison.sampled_difference_interval
    assert low < expected < high and high - low < 0.05  # unpaired: about 0.16


def test_models_judged_on_different_problems_are_refused():
    with pytest.raises(EvaluationError, match=r"different problems \(1 and 100.*such as T/1.*the"):
        compare_verdicts({"T/0": True}, verdicts(), {}, {})
    with pytest.raises(EvaluationError, match="different problems"):
        compare_verdicts(verdicts(), verdicts(), {"T/0": (1, 2)}, {})


def test_comparison_survives_the_way_through_json():
    sampled = dict.fromkeys(TASKS, (1, 4))
    comparison = compare_verdicts(verdicts(1), verdicts(1, 2), sampled, sampled)
    assert Comparison.from_json(json.loads(json.dumps(asdict(comparison)))) == comparison
