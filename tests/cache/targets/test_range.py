"""At the edges of what fp16 holds: targets stay numbers, or are refused where they are made."""

import numpy as np
import pytest
import torch

from cache.errors import CacheError
from cache.targets.basis import BasisFit
from cache.targets.fidelity import MEASURES, measure_rows, require_numbers
from cache.targets.format import TargetFormat
from cache.targets.row_codec import HALF_MAX, OutputHead, RowCodec

VOCAB, WIDTH, ROWS = 300, 16, 400


def rows_of(scale, *, bias=None):
    """Weight and bias of a head, hidden states and their logits; logits grow with `scale`."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCAB, WIDTH, generator=generator) * scale
    bias = torch.zeros(VOCAB) if bias is None else bias
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    return weight, bias, hidden, hidden @ weight.T + bias


def lowrank(scale, top_k, bias=None):
    weight, bias, hidden, logits = rows_of(scale, bias=bias)
    fit = BasisFit(weight, bias)
    fit.add(hidden, logits, logits.topk(top_k, dim=-1).indices)
    targets = TargetFormat(top_k=top_k, tail="lowrank", tail_rank=WIDTH, tail_bytes=40)
    codec = RowCodec(targets, VOCAB, basis=fit.finish(WIDTH, 40))
    return codec, codec.encode(logits, hidden, torch.zeros(ROWS, dtype=torch.int64)), logits


@pytest.mark.parametrize(
    ("scale", "top_k"), [(1.0, 8), (30.0, 8), (300.0, 8), (1e5, 8), (1.0, VOCAB - 1), (1.0, VOCAB)]
)
def test_a_basis_is_finite_however_peaked_the_head_and_however_small_the_tail(scale, top_k):
    codec, rows, logits = lowrank(scale, top_k)
    found = measure_rows(logits, codec.decode(rows), [1.0, 2.0, 4.0])  # (N, 3 · measures)
    assert float(found[:, 1 :: len(MEASURES)].mean()) < 0.03  # total variation


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_basis_gives_the_logits_back_whatever_its_scale(scale):
    weight, bias, hidden, logits = rows_of(scale)
    fit = BasisFit(weight, bias)
    fit.add(hidden, logits, logits.topk(8, dim=-1).indices)
    basis = fit.finish(WIDTH, 40)
    again = (hidden - basis.center) @ basis.projection @ basis.basis.float().T + basis.mean
    torch.testing.assert_close(again, logits, atol=0.02 * scale, rtol=0.01)


@pytest.mark.parametrize("where", ["hidden", "logits"])
def test_a_basis_is_not_fitted_on_what_is_no_number(where):
    weight, bias, hidden, logits = rows_of(1.0)
    {"hidden": hidden, "logits": logits}[where][3, 2] = torch.nan
    fit = BasisFit(weight, bias)
    fit.add(hidden, logits, logits.topk(8, dim=-1).indices)
    with pytest.raises(CacheError, match="basis cannot be fitted: .* hold NaN or inf"):
        fit.finish(WIDTH, 40)


@pytest.mark.parametrize("tail", ["lowrank", "hidden"])
def test_tokens_barred_by_a_bias_leave_the_entropy_a_number(tail):
    bias = torch.zeros(VOCAB)
    bias[250:] = -torch.inf
    if tail == "lowrank":
        codec, rows, logits = lowrank(1.0, 8, bias)
    else:
        weight, bias, hidden, logits = rows_of(1.0, bias=bias)
        codec = RowCodec(
            TargetFormat(tail="hidden"), VOCAB, head=OutputHead(weight=weight, bias=bias)
        )
        rows = codec.encode(logits, hidden, torch.zeros(ROWS, dtype=torch.int64))
    for temperature in (1.0, 4.0):
        p = (logits.double() / temperature).softmax(-1)
        found = codec.decode(rows).at(temperature).neg_entropy.double()
        expected = torch.special.xlogy(p, p).sum(-1)
        assert float((found - expected).abs().mean()) < 0.02


def test_hidden_states_beyond_fp16_are_divided_and_their_head_is_multiplied():
    weight, bias, hidden, logits = rows_of(1.0)
    large = OutputHead(weight=weight / 2**20, bias=bias)
    head = large.reaching(float(hidden.abs().max()) * 2**20)
    assert head.unit > 1 and torch.equal(head.weight / head.unit, large.weight)
    codec = RowCodec(TargetFormat(tail="hidden"), VOCAB, head=head)
    gold = torch.zeros(ROWS, dtype=torch.int64)
    rows = codec.encode(logits, hidden * 2**20, gold)
    found = measure_rows(logits, codec.decode(rows), [1.0, 4.0])
    assert float(found[:, 1 :: len(MEASURES)].max()) < 0.01
    with pytest.raises(CacheError, match="far beyond those of the first documents, which fp16"):
        codec.encode(logits, hidden * 2**30, gold)
    assert large.reaching(HALF_MAX / 16) is large


def test_rows_that_decode_to_no_number_are_refused():
    rows = np.zeros((5, 16), np.float32)
    rows[2, 3] = np.inf  # a KL may be infinite
    require_numbers(rows)
    rows[4, 1] = np.nan
    with pytest.raises(CacheError, match="1 of 5 sampled rows cannot be decoded again"):
        require_numbers(rows)


@pytest.mark.parametrize("tail", ["mass", "sampled"])
def test_logprobs_below_fp16_are_its_lowest_and_not_none(tail):
    logits = torch.zeros(2, VOCAB)
    logits[:, 0] = 2e5
    codec = RowCodec(TargetFormat(top_k=4, logprob_bits=16, tail=tail), VOCAB)
    rows = codec.encode(logits, torch.empty(0), torch.tensor([0, 9]), torch.Generator())
    assert rows["gold_logprob"].tolist() == [0.0, -HALF_MAX]
    found = codec.decode(rows).at(2.0)
    assert torch.isfinite(found.to_dense(VOCAB)).all() and torch.isfinite(found.neg_entropy).all()
