"""The published fidelity against scalar float64 formulas."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from cache.targets.fidelity import (
    FORMER_MEASURES,
    MEASURES,
    SAMPLE_EVERY,
    TEMPERATURES,
    measure_rows,
    sampled_rows,
    summarise,
    widened,
)
from tests.support import reference
from tests.support.synthetic import dense, random_logits, to_soft_targets

VOCAB, TOP_K, ROWS = 200, 4, 12


@pytest.fixture(scope="module")
def logits():
    """Rows from flat to peaked, so that no measure is like another, nor a row like the next."""
    spreads = torch.linspace(1.0, 4.0, ROWS).unsqueeze(-1)
    return random_logits(ROWS, VOCAB, 1.0) * spreads


def expected_measures(row, ids, stored, temperature):
    p = reference.softmax(row, temperature)
    return {
        "captured": reference.captured(p, ids),
        "total_variation": reference.total_variation(p, stored),
        "kl": reference.kl(p, stored),
        "gradient_cosine": reference.gradient_cosine(p, stored),
        "mass_error": abs(reference.captured(p, ids) - reference.captured(stored, ids)),
    }


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_each_measure_is_its_formula_in_every_row(logits, temperature):
    targets = to_soft_targets(logits, TOP_K)
    found = measure_rows(logits, targets, [temperature]).double()  # (rows, measures)
    stored = dense(targets, temperature).double().tolist()
    for i, row in enumerate(logits.double().tolist()):
        expected = expected_measures(row, targets.topk_ids[i].tolist(), stored[i], temperature)
        for name, value in zip(MEASURES, found[i].tolist(), strict=True):
            assert value == pytest.approx(expected[name], rel=2e-4, abs=1e-5), (i, name)


def test_the_rows_tell_the_measures_apart(logits):
    """A measure in another's column, or of another temperature, would be seen above."""
    targets = to_soft_targets(logits, TOP_K)
    stored = dense(targets, 2.0).double().tolist()
    ids = targets.topk_ids.tolist()
    for i, row in enumerate(logits.double().tolist()):
        values = expected_measures(row, ids[i], stored[i], 2.0)
        for (_, one), (_, other) in combinations(values.items(), 2):
            assert abs(one - other) > 0.01, (i, values)
        colder = expected_measures(row, ids[i], dense(targets, 1.5).double().tolist()[i], 1.5)
        for name in MEASURES[:-1]:
            assert abs(values[name] - colder[name]) > 1e-3, (i, name)


def test_a_target_without_mass_where_the_teacher_has_some_is_infinitely_far(logits):
    targets = to_soft_targets(logits, TOP_K, tail="renormalize")
    found = measure_rows(logits, targets, [2.0]).double()
    ids = targets.topk_ids.tolist()
    for i, row in enumerate(logits.double().tolist()):
        p = reference.softmax(row, 2.0)
        inside = reference.captured(p, ids[i])
        renormalised = [p[j] / inside if j in ids[i] else 0.0 for j in range(VOCAB)]
        captured, distance, kl, cosine, mass_error = found[i].tolist()
        assert mass_error == pytest.approx(1 - inside, rel=1e-4)  # all of it is forgotten
        assert kl == math.inf
        assert captured == pytest.approx(inside, rel=1e-4)
        # What is outside moves inside: the total variation is the mass that moved.
        assert distance == pytest.approx(1 - inside, rel=2e-2)
        assert cosine == pytest.approx(reference.gradient_cosine(p, renormalised), rel=1e-2)


@pytest.mark.parametrize("num_tokens", [129, 65, 33, 131])
def test_the_rows_measured_stand_everywhere_in_documents_of_any_length(num_tokens):
    num_rows = (num_tokens - 1) * 400
    places = np.array(sampled_rows(7, num_rows))
    assert (np.diff(places // SAMPLE_EVERY) >= 1).all()  # one of every 128
    assert len(places) >= num_rows // SAMPLE_EVERY
    positions = places % (num_tokens - 1)
    quarters = np.bincount(positions * 4 // (num_tokens - 1), minlength=4)
    assert (quarters > len(places) / 8).all()
    assert places.tolist() != sampled_rows(8, num_rows)


def test_of_few_rows_one_is_measured():
    assert all(len(sampled_rows(seed, 3)) == 1 for seed in range(20))
    assert {sampled_rows(seed, 3)[0] for seed in range(20)} == {0, 1, 2}


def test_a_report_is_the_mean_of_its_rows_and_the_99th_percentile():
    generator = np.random.default_rng(0)
    rows = generator.random((57, len(TEMPERATURES) * len(MEASURES)))
    report = summarise(rows)
    assert [row.temperature for row in report] == list(TEMPERATURES)
    for number, row in enumerate(report):
        columns = rows[:, number * len(MEASURES) : (number + 1) * len(MEASURES)].T.tolist()
        means = [math.fsum(column) / len(column) for column in columns]
        found = [row.captured, row.total_variation, row.kl, row.gradient_cosine]
        assert found == pytest.approx(means[:4], rel=1e-12) and row.num_rows == 57
        assert row.mass_error == max(columns[4])
        p99 = reference.quantile(columns[1], 0.99)
        assert row.total_variation_p99 == pytest.approx(p99, rel=1e-12)
    assert summarise(rows[:0]) == ()


def test_a_tail_of_two_scales_is_read_less_exactly_and_said_to_be():
    """Between the nodes no polynomial follows the turn from one token's mass to all others'."""
    logits = random_logits(2, 8192, 1.0)
    logits[:, 0], logits[:, 1] = 31.0, 29.0  # the first is stored, the second is the tail
    targets = to_soft_targets(logits, 1)
    found = measure_rows(logits, targets, [1.0, 3.0])[:, len(MEASURES) - 1 :: len(MEASURES)]
    for column, temperature in enumerate((1.0, 3.0)):
        stored = dense(targets, temperature).double().tolist()
        for i, row in enumerate(logits.double().tolist()):
            expected = expected_measures(row, [0], stored[i], temperature)["mass_error"]
            assert float(found[i, column]) == pytest.approx(expected, rel=1e-2, abs=1e-5)
    assert found[:, 0].max() < 1e-3 < 5e-3 < found[:, 1].min()


def test_shards_of_before_the_error_of_the_mass_was_measured_count_with_the_others():
    old = np.random.default_rng(0).random((3, FORMER_MEASURES))
    new = np.random.default_rng(1).random((2, len(TEMPERATURES) * len(MEASURES)))
    both = summarise(np.concatenate([widened(old), widened(new)]))
    assert both[1].mass_error == new[:, 9].max() and both[1].num_rows == 5
    assert both[1].captured == pytest.approx((old[:, 4].sum() + new[:, 5].sum()) / 5)
    assert summarise(widened(old))[1].mass_error is None
