from evaluation.metrics.intervals import wilson_interval
from evaluation.metrics.plausibility import HUMANEVAL, find_bound, implausible

TASKS = ["HumanEval/0", "HumanEval/1"]


def test_bound_is_the_next_larger_published_model():
    assert find_bound(TASKS, 44_343_296).model == "Codex 85M"
    assert find_bound(TASKS, 202_012_672).model == "Codex 300M"
    assert find_bound(TASKS, 85_000_000).model == "Codex 85M"
    assert find_bound(TASKS, 7_000_000_000) is None


def test_other_benchmarks_have_no_bound():
    assert find_bound(["MBPP/11"], 44_000_000) is None


def test_only_a_rate_whose_whole_interval_lies_above_the_bound_is_implausible():
    assert implausible(TASKS, 44_000_000, wilson_interval(19, 164)) is None  # 11.6 %, from 7.5 %
    assert implausible(TASKS, 44_000_000, wilson_interval(25, 164)).model == "Codex 85M"
    assert implausible(TASKS, 202_000_000, wilson_interval(25, 164)) is None


def test_published_rates_rise_with_size():
    sizes = [model.parameters for model in HUMANEVAL]
    rates = [model.pass_at_1 for model in HUMANEVAL]
    assert sizes == sorted(sizes) and rates == sorted(rates)
