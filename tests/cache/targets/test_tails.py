"""Every tail against the full softmax: exact, close, or unbiased, as it promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.storage.packing import pack_rows, unpack_rows
from cache.storage.tail_file import load_basis, save_basis
from cache.targets.basis import BasisFit
from cache.targets.fidelity import measure_rows, summarise
from cache.targets.format import TAIL_KL, TargetFormat
from cache.targets.logprob_codes import decode_logprobs, encode_logprobs, error_bound
from cache.targets.row_codec import RowCodec
from distill.loss.terms import sparse_kl_sum
from tests.support.synthetic import dense, encode, random_logits, to_soft_targets

WIDTH, VOCAB = 24, 300


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, torch.Tensor]:
    """An output head (V, D) and hidden states (N, D) whose dimensions weigh unequally."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(VOCAB, WIDTH, generator=generator)
    spectrum = torch.linspace(1.2, 0.05, WIDTH)
    return head, torch.randn(600, WIDTH, generator=generator) * spectrum


def fitted(
    world, *, rank: int = WIDTH, tail_bytes: float | None = 30.0, top_k: int = 4
) -> RowCodec:
    head, hidden = world
    logits = hidden[:400] @ head.T
    fit = BasisFit(head, None)
    for start in range(0, 400, 100):
        part = logits[start : start + 100]
        fit.add(hidden[start : start + 100], part, part.topk(top_k).indices)
    targets = TargetFormat(top_k=top_k, tail="lowrank", tail_rank=rank, tail_bytes=tail_bytes)
    return RowCodec(targets, VOCAB, basis=fit.finish(rank, tail_bytes))


def measure(codec: RowCodec, world) -> dict[float, float]:
    """KL by temperature on rows the basis was not fitted on."""
    head, hidden = world
    logits = hidden[400:] @ head.T
    gold = torch.zeros(200, dtype=torch.int64)
    decoded = codec.decode(codec.encode(logits, hidden[400:], gold))
    rows = measure_rows(logits, decoded).numpy()
    return {row.temperature: row.kl for row in summarise(rows)}


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 4.0])
def test_a_hidden_tail_is_the_full_softmax_at_every_temperature(temperature):
    logits = random_logits(6, 120, 2.0)
    found = dense(to_soft_targets(logits, 8, "hidden"), temperature)
    assert (found - (logits / temperature).softmax(-1)).abs().sum(-1).max() < 4e-3


def test_a_lowrank_tail_gets_truer_with_its_bytes_and_beats_an_even_one(world):
    head, hidden = world
    even = RowCodec(TargetFormat(top_k=4, tail="mass"), VOCAB)
    errors = [measure(fitted(world, tail_bytes=b), world)[2.0] for b in (4.0, 10.0, 20.0)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert measure(even, world)[2.0] > 5 * errors[0]


def test_a_lowrank_tail_gets_truer_with_its_rank(world):
    errors = [measure(fitted(world, rank=r, tail_bytes=40), world)[2.0] for r in (2, 8, WIDTH)]
    assert errors[0] > errors[1] > errors[2]


def test_the_coded_coefficients_take_the_bytes_asked_for(world):
    head, hidden = world
    codec = fitted(world, tail_bytes=12.0)
    rows = codec.encode(hidden @ head.T, hidden, torch.zeros(600, dtype=torch.int64))
    arrays = {name: part.numpy() for name, part in rows.items()}
    packed = pack_rows(arrays, ragged=False, tables=codec.tables)
    assert packed["tail_words"].nbytes / 600 == pytest.approx(12.0, rel=0.1)


@pytest.mark.parametrize("contrast", [0.5, 1.0, 1.6])
def test_without_bytes_every_teacher_gets_about_the_same_kl(world, contrast):
    head, hidden = world
    teacher = head * contrast, hidden
    codec = fitted(teacher, tail_bytes=None)
    assert measure(codec, teacher)[2.0] == pytest.approx(TAIL_KL, rel=0.25)


def test_bytes_are_those_of_rows_that_nothing_was_fitted_on():
    generator = torch.Generator().manual_seed(1)
    head, spectrum = torch.randn(200, 96, generator=generator), torch.linspace(1.0, 0.02, 96)
    hidden = torch.randn(1200, 96, generator=generator) * spectrum
    taken = {}
    for components_from in (0, 300):  # of the rows with logits themselves, or of others
        fit = BasisFit(head, None)
        if components_from:
            fit.add_hidden(hidden[:components_from])
        part = hidden[300:500] @ head.T
        fit.add(hidden[300:500], part, part.topk(4).indices)
        targets = TargetFormat(top_k=4, tail_rank=96, tail_bytes=30.0)
        codec = RowCodec(targets, 200, basis=fit.finish(96, 30.0))
        assert fit.num_rows == components_from + 200
        others = hidden[500:]
        rows = codec.encode(others @ head.T, others, torch.zeros(len(others), dtype=torch.int64))
        arrays = {name: array.numpy() for name, array in rows.items()}
        packed = pack_rows(arrays, ragged=False, tables=codec.tables)
        taken[components_from] = packed["tail_words"].nbytes / len(others)
    assert taken[300] == pytest.approx(30.0, rel=0.1)
    assert taken[0] > 1.1 * taken[300]


def test_means_and_components_are_of_the_rows_without_logits(world):
    head, hidden = world
    fit = BasisFit(head, None)
    for start in range(0, 500, 100):
        fit.add_hidden(hidden[start : start + 100])
    fit.add(hidden[500:], hidden[500:] @ head.T, (hidden[500:] @ head.T).topk(4).indices)
    basis = fit.finish(WIDTH, 20.0)
    torch.testing.assert_close(basis.center, hidden[:500].mean(0))
    coefficients = (hidden[:500] - basis.center) @ basis.projection
    products = coefficients.T @ coefficients
    off_diagonal = products - products.diagonal().diag()
    assert off_diagonal.abs().max() < 1e-3 * products.diagonal().max()


def test_a_coefficient_is_rounded_to_the_nearest_or_to_a_cheaper_code_nearer_to_zero(world):
    basis = fitted(world, tail_bytes=6.0)._basis
    hidden, scale = world[1][400:], torch.ones(200)
    exact = (hidden - basis.center) @ basis.projection / basis.steps
    codes = basis.quantise(hidden, scale)
    inside = exact.abs() < basis.limits
    nearest = exact.round().to(torch.int8)
    lower = (nearest.abs() - 1).clamp_min(0) * nearest.sign()
    assert bool(((codes == nearest) | (codes == lower))[inside].all())
    assert 0 < (codes != nearest)[inside].float().mean() < 0.2
    again = basis.dequantise(codes, scale) @ torch.linalg.inv(basis.projection) + basis.center
    assert torch.equal(basis.quantise(again, scale), codes)


def test_the_same_rows_give_the_same_basis(world):
    first, second = fitted(world)._basis, fitted(world)._basis
    assert torch.equal(first.basis, second.basis) and torch.equal(first.steps, second.steps)


def test_a_basis_survives_its_file_and_other_shapes_are_refused(world, tmp_path):
    basis = fitted(world)._basis
    path = tmp_path / "tail.safetensors"
    save_basis(basis, path)
    loaded = load_basis(path, vocab_size=VOCAB, rank=WIDTH)
    assert torch.equal(loaded.basis, basis.basis) and torch.equal(loaded.limits, basis.limits)
    with pytest.raises(CacheError, match="basis is .300, 24., not .301, 24."):
        load_basis(path, vocab_size=301, rank=WIDTH)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CacheError, match="is damaged"):
        load_basis(path, vocab_size=VOCAB, rank=WIDTH)
    with pytest.raises(CacheError, match="is missing"):
        load_basis(tmp_path / "absent", vocab_size=VOCAB, rank=WIDTH)


def test_a_rank_beyond_the_width_is_refused(world):
    head, hidden = world
    fit = BasisFit(head, None)
    logits = hidden @ head.T
    fit.add(hidden, logits, logits.topk(4).indices)
    with pytest.raises(CacheError, match="only 24 dimensions. Give --tail-rank 24 or less"):
        fit.finish(25, 10)


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 4.0])
def test_a_sampled_tail_is_unbiased_at_every_temperature(temperature):
    row = random_logits(1, 60, 1.5, seed=3)
    num_rows = 4000
    targets = to_soft_targets(row.repeat(num_rows, 1), 4, "sampled", tail_samples=8)
    found = dense(targets, temperature).double()
    expected = (row[0].double() / temperature).softmax(-1)
    error = found.mean(0) - expected
    standard_error = found.std(0) / num_rows**0.5
    # 60 tokens: the largest of so many z-scores stays below 4.5; 0.004 is the mass's own error.
    assert (error.abs() <= 4.5 * standard_error + 0.004 * expected).all()
    assert found.sum(-1).std() > 1e-3 or temperature == 2.0


def test_the_gradient_of_a_sampled_tail_is_the_full_one_in_expectation():
    row, student = random_logits(1, 40, 1.5, seed=1), random_logits(1, 40, 1.0, seed=2)
    num_rows = 4000
    targets = to_soft_targets(row.repeat(num_rows, 1), 4, "sampled", tail_samples=8)
    logits = student.repeat(num_rows, 1).requires_grad_()
    sparse_kl_sum(logits, targets, 1.5).backward()
    expected = ((student / 1.5).softmax(-1) - (row / 1.5).softmax(-1)) / 1.5
    standard_error = logits.grad.std(0) / num_rows**0.5
    assert ((logits.grad.mean(0) - expected[0]).abs() <= 4.5 * standard_error + 1e-3).all()


@given(st.lists(st.floats(-39.9, 0.0), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_byte_logprobs_stay_within_their_bound(values):
    logprobs = torch.tensor(values)
    error = (decode_logprobs(encode_logprobs(logprobs)) - logprobs).abs()
    assert (error <= error_bound(logprobs) + 1e-5).all()


def test_byte_logprobs_keep_minus_infinity_and_floor_the_rest():
    codes = encode_logprobs(torch.tensor([0.0, -torch.inf, -1000.0]))
    found = decode_logprobs(codes)
    assert found[0] == 0 and found[1] == -torch.inf
    assert float(found[2]) == pytest.approx(-40, rel=1e-3)


@given(
    num_rows=st.integers(1, 20),
    vocab_size=st.sampled_from([5, 64, 300]),
    top_k=st.integers(1, 70),
    top_p=st.sampled_from([None, 0.3, 0.9, 1.0]),
    logprob_bits=st.sampled_from([8, 16]),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
    tail=st.sampled_from(["mass", "sampled", "renormalize"]),
)
@settings(max_examples=80, deadline=None)
def test_packed_rows_unpack_to_themselves(
    num_rows, vocab_size, top_k, top_p, logprob_bits, spread, tail
):
    logits = random_logits(num_rows, vocab_size, spread)
    logits[:, 0] = -torch.inf
    options = {"top_p": top_p, "logprob_bits": logprob_bits, "tail_samples": 3}
    rows = {name: part.numpy() for name, part in encode(logits, top_k, tail, **options).items()}
    rows["topk_ids"] = rows["topk_ids"].astype("<u2")
    for name, dtype in (("topk_logprobs", "u1"), ("tail_log_mass", "<u2")):
        if name in rows and (name != "topk_logprobs" or logprob_bits == 8):
            rows[name] = rows[name].astype(dtype)
    packed = pack_rows(rows, ragged=top_p is not None, tables=None)
    counts = packed.pop("topk_counts", None)
    found = unpack_rows(packed, counts=counts, num_entries=min(top_k, vocab_size))
    assert set(found) == set(rows)
    for name, array in rows.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes(), name


def test_top_p_keeps_the_fewest_entries_that_hold_it():
    logits = random_logits(50, 200, 3.0)
    targets = to_soft_targets(logits, 64, top_p=0.9)
    probs = logits.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    needed = (probs < 0.9).sum(-1) + 1
    assert torch.equal(torch.isfinite(targets.topk_logprobs).sum(-1), needed.clamp_max(64))
    full = dense(targets, 1.5)
    assert torch.allclose(full.sum(-1), torch.ones(50), atol=1e-4)


def test_counts_that_do_not_fit_are_refused():
    rows = {name: part.numpy() for name, part in encode(random_logits(4, 50, 2.0), 8).items()}
    packed = pack_rows(rows, ragged=True, tables=None)
    counts = packed.pop("topk_counts")
    counts[0] += 1
    with pytest.raises(CacheError, match="topk_counts do not fit topk_ids"):
        unpack_rows(packed, counts=counts, num_entries=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k is 0; it must be 1 or more"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be above 0 and at most 1"),
        ({"logprob_bits": 12}, "logprob_bits is 12; choose 8 or 16"),
        ({"tail": "none"}, "tail is 'none'; choose from lowrank"),
        ({"tail_bytes": 0.0}, "tail_bytes is 0.0; it must be 1 or more"),
    ],
)
def test_impossible_formats_are_refused(change, message):
    with pytest.raises(CacheError, match=message):
        TargetFormat(**change)


@pytest.mark.parametrize("tail", ["mass", "renormalize", "hidden", "sampled"])
def test_the_loss_of_every_tail_is_the_kl_to_its_dense_target(tail):
    student = random_logits(4, 100, 2.0, seed=2)
    targets = to_soft_targets(random_logits(4, 100, 2.0, seed=1), 10, tail)
    p = dense(targets, 2.0).double()
    log_q = (student.double() / 2).log_softmax(-1)
    expected = (targets.at(2.0).neg_entropy.double() - (p * log_q).sum(-1)).sum()
    assert float(sparse_kl_sum(student, targets, 2.0)) == pytest.approx(float(expected), rel=1e-4)
