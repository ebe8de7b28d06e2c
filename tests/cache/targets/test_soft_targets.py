"""Soft targets against scalar float64 formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.targets.format import TargetFormat
from cache.targets.row_codec import RowCodec
from cache.targets.tail_mass import decode_log_mass, encode_log_mass, interpolate_log_mass
from tests.support import reference
from tests.support.synthetic import dense, random_logits, to_soft_targets

TEMPERATURES = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0)


@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
def test_entropy_gold_logprob_and_rank_are_those_of_the_full_row(spread):
    logits = random_logits(6, 300, spread)
    gold = torch.tensor([0, 5, 17, 100, 250, 299])
    rows = RowCodec(TargetFormat(top_k=16, tail="mass"), 300).encode(logits, torch.empty(0), gold)
    for i, row in enumerate(logits.double().tolist()):
        p = reference.softmax(row, 1.0)
        assert float(rows["entropy"][i]) == pytest.approx(reference.entropy(p), abs=5e-3)
        expected = torch.tensor(p).log()[gold[i]].item()
        assert float(rows["gold_logprob"][i]) == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert int(rows["gold_rank"][i]) == sum(z > row[gold[i]] for z in row)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("top_k", [1, 8, 64])
def test_tail_mass_is_exact_at_every_temperature(temperature, top_k):
    logits = random_logits(8, 1000, 2.0)
    targets = to_soft_targets(logits, top_k)
    tail = interpolate_log_mass(targets.tail.log_mass, temperature)
    for i, row in enumerate(logits.double().tolist()):
        expected = reference.log_tail_mass(row, top_k, temperature)
        assert float(tail[i]) == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_distribution_is_the_softmax_with_its_tail_spread_evenly(temperature):
    logits = random_logits(4, 200, 3.0)
    found = dense(to_soft_targets(logits, 16), temperature)
    for i, row in enumerate(logits.double().tolist()):
        expected = torch.tensor(reference.spread_tail(row, 16, temperature))
        assert (found[i] - expected).abs().sum() < 5e-3
        assert float(found[i].sum()) == pytest.approx(1, abs=1e-5)


def test_negative_entropy_counts_the_tail():
    targets = to_soft_targets(random_logits(4, 200, 3.0), 16)
    probs = dense(targets, 2.0)
    expected = (probs * probs.log()).sum(-1)
    assert torch.allclose(targets.at(2.0).neg_entropy, expected, atol=1e-4)


def test_renormalising_puts_everything_on_the_top_k():
    distribution = to_soft_targets(random_logits(4, 200, 3.0), 16, tail="renormalize").at(2.0)
    assert torch.allclose(distribution.probs.sum(-1), torch.ones(4))
    assert distribution.uniform is None and distribution.rest is None


def test_top_k_beyond_the_vocabulary_keeps_the_whole_softmax():
    logits = random_logits(3, 7, 2.0)
    targets = to_soft_targets(logits, 64)
    assert targets.topk_ids.shape == (3, 7)
    assert torch.allclose(dense(targets, 1.5), (logits / 1.5).softmax(-1), atol=2e-3)


def test_masked_tokens_have_probability_zero():
    logits = random_logits(2, 20, 1.0)
    logits[:, 4:] = -torch.inf
    targets = to_soft_targets(logits, 8)
    probs = dense(targets, 2.0)
    assert torch.allclose(probs[:, :4], (logits[:, :4] / 2).softmax(-1), atol=2e-3)
    assert torch.isfinite(targets.at(2.0).neg_entropy).all()
    assert (probs[:, 4:] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = random_logits(3, 50, 1.0)
    logits[1, 7] = bad
    with pytest.raises(CacheError, match="hold NaN or inf .row 1"):
        to_soft_targets(logits, 8)


@pytest.mark.parametrize("temperature", [0.5, 4.5])
def test_temperatures_beyond_the_nodes_are_refused(temperature):
    with pytest.raises(CacheError, match="for temperatures from 1 to 4"):
        to_soft_targets(random_logits(2, 50, 1.0), 8).at(temperature)


@given(st.lists(st.floats(-39.9, 20.0), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_log_masses_survive_their_codes(values):
    masses = torch.tensor(values)
    assert (decode_log_mass(encode_log_mass(masses)) - masses).abs().max() <= 1 / 2048 + 1e-5


def test_an_empty_tail_survives_its_code():
    assert decode_log_mass(encode_log_mass(torch.tensor([-torch.inf])))[0] == -torch.inf


@given(
    vocab_size=st.integers(5, 400),
    top_k=st.integers(1, 500),
    spread=st.floats(0.01, 1e4),
    temperature=st.floats(1, 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_every_target_is_a_distribution(vocab_size, top_k, spread, temperature, seed):
    targets = to_soft_targets(random_logits(3, vocab_size, spread, seed), top_k)
    probs = dense(targets, temperature)
    assert (probs >= 0).all()
    assert torch.allclose(probs.sum(-1), torch.ones(3), atol=1e-4)


@pytest.mark.parametrize("tail", ["mass", "sampled", "renormalize"])
def test_a_vocabulary_of_200_000_keeps_its_softmax(tail):
    logits = random_logits(2, 200_000, 4.0)
    targets = to_soft_targets(logits, 64, tail)
    assert int(targets.topk_ids.max()) > 65_536
    found, expected = dense(targets, 1.0), logits.softmax(-1)
    top = targets.topk_ids
    scale = expected.gather(-1, top).sum(-1, keepdim=True) if tail == "renormalize" else 1.0
    assert torch.allclose(found.gather(-1, top) * scale, expected.gather(-1, top), rtol=0.02)


def test_ties_keep_as_many_entries_as_there_are():
    targets = to_soft_targets(torch.zeros(3, 40), 8)
    assert torch.allclose(dense(targets, 2.0), torch.full((3, 40), 1 / 40), atol=1e-4)
    assert (targets.topk_ids.sort(-1).values.diff() > 0).all()


def test_an_even_tail_gives_nothing_to_rows_of_the_head_that_are_no_tokens():
    logits = random_logits(5, 60, 1.0)
    logits[0, 58] = 9.0  # the teacher's own mass beyond the 50 tokens, in one row's top-k
    codec = RowCodec(TargetFormat(top_k=4, tail="mass", logprob_bits=16), 60, num_tokens=50)
    gold = torch.zeros(5, dtype=torch.int64)
    targets = codec.decode(codec.encode(logits, torch.empty(0), gold))
    for temperature in (1.0, 2.0):
        found = dense(targets, temperature)
        for row, p in enumerate((logits.double() / temperature).softmax(-1)):
            named = p.topk(4).indices.tolist()
            share = (1 - float(p[named].sum())) / (50 - sum(i < 50 for i in named))
            expected = [float(p[i]) if i in named else share if i < 50 else 0.0 for i in range(60)]
            assert found[row].tolist() == pytest.approx(expected, rel=2e-3, abs=1e-6)
    assert float(dense(targets, 1.0)[0, 58]) > 0.5


def test_where_every_token_is_in_the_top_k_what_is_left_lies_beyond_them():
    logits = random_logits(3, 12, 1.0)
    logits[:, 8:] -= 9
    codec = RowCodec(TargetFormat(top_k=8, tail="mass"), 12, num_tokens=8)
    targets = codec.decode(codec.encode(logits, torch.empty(0), torch.zeros(3, dtype=torch.int64)))
    assert dense(targets, 1.0).sum(-1).tolist() == pytest.approx([1.0] * 3, rel=1e-3)
