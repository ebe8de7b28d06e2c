"""Head, distillation and cross-entropy in one, against plain float64 formulas and autograd."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from distill.errors import DistillError
from distill.loss import fused
from distill.loss.divergences import DENSE, gradient_order, require_divergence_fits
from distill.loss.fused import head_losses
from distill.loss.terms import LossTerms
from distill.settings.recipe import DIVERGENCES
from tests.support import reference
from tests.support.head_inputs import ROWS, VOCAB, make_head, make_targets
from tests.support.synthetic import dense, random_logits, to_soft_targets

TAILS = ("mass", "mass of fewer tokens", "renormalize", "hidden", "sampled", "lowrank")
FITTING = [
    (divergence, tail)
    for divergence in DIVERGENCES
    for tail in TAILS
    if divergence == "forward_kl"
    or (tail != "sampled" and (divergence, tail) != ("reverse_kl", "renormalize"))
]


@pytest.fixture
def small_slices(monkeypatch):
    """Two rows a pass, four a slice: the seven rows of these tests take several of both."""
    monkeypatch.setattr(fused, "CPU_PASS_BYTES", 2 * VOCAB * 4)
    monkeypatch.setattr(fused, "SLICE_BYTES", 4 * VOCAB * 4)


def plain(hidden, weight, labels, targets, terms):
    """The loss by autograd through (N, V) logits, as it is usually written."""
    logits = torch.nn.functional.linear(hidden, weight)
    with torch.autocast("cpu", enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = targets.at(terms.temperature)
        p = target.to_dense(targets.vocab_size).to(logits.dtype)
        log_q = (logits / terms.temperature).log_softmax(-1)
        divergence = (target.neg_entropy - (p * log_q).sum(-1)).sum()
        ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return terms.alpha * terms.temperature**2 * divergence + (1 - terms.alpha) * ce


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 1.7, 2.0])
def test_loss_and_gradients_are_those_of_the_plain_formula(tail, temperature, small_slices):
    hidden, weight, labels = make_head()
    targets, terms = make_targets(tail), LossTerms(temperature=temperature, alpha=0.6)
    found = head_losses(hidden, weight, labels, targets, terms).loss
    expected = plain(hidden, weight, labels, targets, terms)
    # Targets are fp32, so their sum is 1 to fp32's rounding.
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    pairs = zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("divergence", "tail"), FITTING)
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_gradients_agree_with_finite_differences(divergence, tail, temperature, small_slices):
    hidden, weight, labels = make_head(rows=3, width=2)
    targets = make_targets(tail, rows=3)
    terms = LossTerms(temperature=temperature, alpha=0.7, divergence=divergence)
    loss = head_losses(hidden, weight, labels, targets, terms).loss
    step = 1e-6
    for tensor, gradient in zip((hidden, weight), gradients(loss, hidden, weight), strict=True):
        flat = tensor.detach().view(-1)
        for place in range(0, len(flat), 3):
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                values.append(float(head_losses(hidden, weight, labels, targets, terms).loss))
                flat[place] -= sign * step
            numeric = (values[0] - values[1]) / (2 * step)
            # Fixed fp32 targets sum to 1 but for rounding; the differences see it.
            assert float(gradient.view(-1)[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("tail", ["mass", "hidden"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_divergences_are_those_of_the_scalar_formulas(tail, temperature):
    hidden, weight, labels = make_head()
    targets = make_targets(tail)
    scalar = {
        "forward_kl": lambda p, q: reference.kl(p, q),
        "reverse_kl": lambda p, q: reference.kl(q, p),
        "jensen_shannon": reference.jensen_shannon,
        "total_variation": reference.total_variation,
    }
    students = [reference.softmax(row, temperature) for row in (hidden @ weight.T).tolist()]
    teachers = dense(targets, temperature).double().tolist()
    for divergence in DIVERGENCES:
        terms = LossTerms(temperature=temperature, alpha=1.0, divergence=divergence)
        found = head_losses(hidden, weight, labels, targets, terms).distillation
        expected = sum(
            scalar[divergence](p, q) for p, q in zip(teachers, students, strict=True)
        ) * temperature ** gradient_order(divergence)
        assert float(found) == pytest.approx(expected, rel=1e-5), divergence


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_factor_of_temperature_keeps_gradients_of_one_size(divergence):
    targets = make_targets("hidden", rows=50)
    sizes = []
    for temperature in (3.0, 4.0):
        hidden, weight, labels = make_head(rows=50)
        terms = LossTerms(temperature=temperature, alpha=1.0, divergence=divergence)
        loss = head_losses(hidden * 0.2, weight, labels, targets, terms).loss
        sizes.append(float(gradients(loss, weight)[0].norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


@pytest.mark.parametrize(
    ("dtype", "tail"),
    [(torch.float32, tail) for tail in TAILS]
    + [(torch.bfloat16, "mass"), (torch.bfloat16, "hidden"), (torch.float16, "mass")],
)
def test_rounding_costs_no_more_than_in_the_naive_version(dtype, tail):
    rows, width, vocab = 64, 32, 1000
    hidden, weight, labels = make_head(rows, width, vocab, torch.float32)
    targets = make_targets(tail, rows, vocab, top_k=16)
    terms = LossTerms(temperature=2.0, alpha=0.6)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    loss = plain(*exact, labels, targets, terms)
    truth = [loss.detach(), *gradients(loss, *exact)]
    errors = []
    for function in (plain, lambda *inputs: head_losses(*inputs).loss):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = function(hidden, weight, labels, targets, terms)
        scale = 20.0 / rows  # as a mean, and a loss scaler, leave it
        found = [loss.detach(), *(g / scale for g in gradients(loss * scale, hidden, weight))]
        errors.append([float((a - b).norm()) for a, b in zip(found, truth, strict=True)])
    naive, ours = errors
    # The value's error is one random number; those of the gradients are norms of many.
    assert ours[0] <= 3 * naive[0] + 1e-6 * float(truth[0])
    assert ours[1] <= 1.1 * naive[1] and ours[2] <= 1.1 * naive[2]


def test_the_kl_is_not_negative_beyond_rounding_when_the_student_is_the_teacher():
    logits = random_logits(20, 300, 3.0)
    for tail in ("mass", "hidden"):
        targets = to_soft_targets(logits, 300 if tail == "mass" else 16, tail)
        student = dense(targets, 1.0).log()
        terms = LossTerms(temperature=1.0, alpha=1.0)
        labels = torch.zeros(20, dtype=torch.int64)
        found = head_losses(student, torch.eye(300), labels, targets, terms).distillation
        assert abs(float(found)) < 20 * 3e-6


def test_padded_entries_of_a_row_hold_nothing(small_slices):
    targets = to_soft_targets(random_logits(ROWS, VOCAB, 4.0, seed=1), 16, top_p=0.8)
    assert torch.isneginf(targets.topk_logprobs).any()
    hidden, weight, labels = make_head()
    terms = LossTerms(temperature=2.0, alpha=0.6)
    for divergence in DIVERGENCES:
        found = head_losses(
            hidden,
            weight,
            labels,
            targets,
            LossTerms(temperature=2.0, alpha=0.6, divergence=divergence),
        )
        assert all(torch.isfinite(g).all() for g in gradients(found.loss, hidden, weight))
    loss = head_losses(hidden, weight, labels, targets, terms).loss
    assert float(loss) == pytest.approx(
        float(plain(hidden, weight, labels, targets, terms)), rel=1e-6
    )


def test_a_named_token_may_come_twice():
    targets = make_targets("sampled")
    named = targets.at(2.0).ids
    assert any(len(set(row)) < len(row) for row in named.tolist())
    hidden, weight, labels = make_head()
    terms = LossTerms(temperature=2.0, alpha=1.0)
    pairs = [
        gradients(function(hidden, weight, labels, targets, terms), weight)[0]
        for function in (plain, lambda *inputs: head_losses(*inputs).loss)
    ]
    torch.testing.assert_close(*pairs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tail", ["mass", "hidden", "renormalize"])
def test_a_top_k_of_the_whole_vocabulary_is_dense_distillation(tail):
    teacher = random_logits(ROWS, VOCAB, 2.0, seed=1)
    targets = to_soft_targets(teacher, VOCAB + 10, tail)
    rounded = torch.empty(ROWS, VOCAB).scatter(-1, targets.topk_ids, targets.topk_logprobs)
    hidden, weight, labels = make_head()
    found = head_losses(hidden, weight, labels, targets, LossTerms(temperature=2.0, alpha=0.3))
    logits = (hidden @ weight.T).tolist()
    rows = zip(logits, rounded.double().tolist(), labels.tolist(), strict=True)
    expected = sum(reference.kd_loss(s, t, label, 2.0, 0.3) for s, t, label in rows)
    assert float(found.loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("inside", [True, False])
def test_a_label_counts_the_same_inside_and_outside_of_the_top_k(inside):
    hidden, weight, _ = make_head()
    targets, terms = make_targets("mass"), LossTerms(temperature=2.0, alpha=0.4)
    if inside:
        labels = targets.topk_ids[:, 2]
    else:
        labels = torch.tensor(
            [min(set(range(VOCAB)) - set(row)) for row in targets.topk_ids.tolist()]
        )
    found = head_losses(hidden, weight, labels, targets, terms).loss
    expected = plain(hidden, weight, labels, targets, terms)
    for one, other in zip(
        gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tail", TAILS)
def test_no_rows_give_zero_and_zero_gradients(tail):
    hidden, weight, labels = make_head()
    none = torch.zeros(0, dtype=torch.int64)
    targets, terms = make_targets(tail).select(none), LossTerms(temperature=2.0, alpha=0.5)
    hidden = hidden.detach()[:0].requires_grad_()
    sums = head_losses(hidden, weight, labels[:0], targets, terms)
    assert [float(value) for value in sums] == [0, 0, 0]
    assert gradients(sums.loss, hidden, weight)[1].abs().max() == 0


def test_the_loss_is_differentiable_once_and_its_parts_not_at_all():
    hidden, weight, labels = make_head()
    sums = head_losses(
        hidden, weight, labels, make_targets("mass"), LossTerms(temperature=2.0, alpha=0.5)
    )
    assert sums.loss.requires_grad
    assert not sums.distillation.requires_grad and not sums.ce.requires_grad
    sums.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sums.loss.backward()


def test_without_grad_mode_no_gradient_is_formed(monkeypatch):
    scales = []
    forward_kl = fused.forward_kl

    def spy(student, target, rest, scale):
        scales.append(scale)
        return forward_kl(student, target, rest, scale)

    monkeypatch.setattr(fused, "forward_kl", spy)
    hidden, weight, labels = make_head()
    inputs = (labels, make_targets("mass"), LossTerms(temperature=2.0, alpha=0.5))
    with torch.no_grad():
        measured = head_losses(hidden, weight, *inputs)
    assert scales == [None] and not measured.loss.requires_grad
    assert float(head_losses(hidden, weight, *inputs).loss) == float(measured.loss)
    assert scales[1] is not None


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient(frozen):
    hidden, weight, labels = make_head()
    inputs = (labels, make_targets("mass"), LossTerms(temperature=2.0, alpha=0.5))
    expected = gradients(head_losses(hidden, weight, *inputs).loss, hidden, weight)
    {"hidden": hidden, "weight": weight}[frozen].requires_grad_(False)
    head_losses(hidden, weight, *inputs).loss.backward()
    for tensor, gradient in ((hidden, expected[0]), (weight, expected[1])):
        assert (
            tensor.grad is None if not tensor.requires_grad else torch.equal(tensor.grad, gradient)
        )


def test_gradients_accumulate_over_calls():
    hidden, weight, labels = make_head()
    targets, terms = make_targets("hidden"), LossTerms(temperature=2.0, alpha=0.5)
    (head_losses(hidden, weight, labels, targets, terms).loss * 0.25).backward()
    whole = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    for start, stop in pairwise((0, 3, ROWS)):
        rows = torch.arange(start, stop)
        loss = head_losses(hidden[rows], weight, labels[rows], targets.select(rows), terms).loss
        (loss * 0.25).backward()
    torch.testing.assert_close(hidden.grad, whole[0])
    torch.testing.assert_close(weight.grad, whole[1])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_works_inside_gradient_checkpointing(use_reentrant):
    hidden, weight, labels = make_head()
    inputs = (labels, make_targets("mass"), LossTerms(temperature=2.0, alpha=0.5))

    def loss(hidden, weight):
        return head_losses(torch.tanh(hidden), weight, *inputs).loss

    expected = gradients(loss(hidden, weight), hidden, weight)
    checkpoint(loss, hidden, weight, use_reentrant=use_reentrant).backward()
    torch.testing.assert_close((hidden.grad, weight.grad), expected)


def test_works_inside_torch_compile():
    hidden, weight, labels = make_head()
    inputs = (labels, make_targets("mass"), LossTerms(temperature=2.0, alpha=0.5))

    def loss(hidden, weight):
        return head_losses(torch.tanh(hidden), weight, *inputs).loss * 2

    expected = gradients(loss(hidden, weight), hidden, weight)
    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(gradients(compiled(hidden, weight), hidden, weight), expected)


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize(("divergence", "tail"), FITTING)
def test_nothing_of_rows_times_vocabulary_ever_exists(divergence, tail, monkeypatch):
    rows, vocab = 256, 50
    monkeypatch.setattr(fused, "SLICE_BYTES", 8 * vocab * 4)
    hidden, weight, labels = make_head(rows, vocab=vocab, dtype=torch.float32)
    targets = make_targets(tail, rows, vocab)
    terms = LossTerms(temperature=2.0, alpha=0.5, divergence=divergence)
    with LargestTensor() as largest:
        head_losses(hidden, weight, labels, targets, terms).loss.backward()
    assert 8 * vocab <= largest.elements < rows * vocab / 3


@pytest.mark.parametrize("divergence", DENSE)
def test_targets_that_make_a_divergence_wrong_are_refused(divergence):
    with pytest.raises(
        DistillError, match=f"divergence is {divergence}.* tail is sampled.*lowrank"
    ):
        require_divergence_fits(divergence, "sampled")
    require_divergence_fits("forward_kl", "sampled")
    require_divergence_fits("total_variation", "renormalize")
    with pytest.raises(DistillError, match="every other token probability 0: it is infinite"):
        require_divergence_fits("reverse_kl", "renormalize")
