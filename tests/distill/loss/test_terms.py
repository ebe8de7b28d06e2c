"""The loss against dense float64 distillation, and its gradients against finite differences."""

import pytest
import torch

from distill.loss.fused import head_losses
from distill.loss.terms import LossSums, LossTerms, sparse_kl_sum
from tests.support import reference
from tests.support.synthetic import dense, random_logits, to_soft_targets


def distillation_sums(logits, labels, targets, **terms) -> LossSums:
    """The loss of given logits: a head that passes them through."""
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return head_losses(logits, head, labels, targets, LossTerms(**terms))


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_equals_dense_float64_distillation_when_the_top_k_is_the_vocabulary(temperature, alpha):
    teacher, student = random_logits(5, 40, 2.0, seed=1), random_logits(5, 40, 2.0, seed=2)
    labels = torch.arange(5)
    targets = to_soft_targets(teacher, 40)
    # What is stored is rounded to fp16: the truth is the distillation of the rounded teacher.
    rounded = torch.empty(5, 40).scatter(-1, targets.topk_ids, targets.topk_logprobs)
    found = distillation_sums(student, labels, targets, temperature=temperature, alpha=alpha)
    expected = sum(
        reference.kd_loss(s, t, label, temperature, alpha)
        for s, t, label in zip(
            student.double().tolist(), rounded.double().tolist(), range(5), strict=True
        )
    )
    assert float(found.loss) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("tail", ["mass", "renormalize"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_the_dense_kl_to_the_same_target(tail, temperature):
    student = random_logits(4, 100, 2.0, seed=2)
    targets = to_soft_targets(random_logits(4, 100, 2.0, seed=1), 10, tail)
    p = dense(targets, temperature).double()
    log_q = (student.double() / temperature).log_softmax(-1)
    expected = (torch.special.xlogy(p, p) - p * log_q).sum()
    assert float(sparse_kl_sum(student, targets, temperature)) == pytest.approx(
        float(expected), rel=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 1.7, 3.0])
def test_gradient_is_zero_when_the_student_is_the_teacher(temperature):
    targets = to_soft_targets(random_logits(4, 60, 2.0), 60)
    student = torch.empty(4, 60).scatter(-1, targets.topk_ids, targets.topk_logprobs)
    student = (student + 3.0).requires_grad_()
    kl = sparse_kl_sum(student, targets, temperature)
    kl.backward()
    assert abs(float(kl.detach())) < 1e-4
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradient_agrees_with_finite_differences(temperature):
    targets = to_soft_targets(random_logits(3, 30, 2.0, seed=1), 8)
    student = random_logits(3, 30, 1.0, seed=2).requires_grad_()
    labels = torch.tensor([1, 2, 3])

    def loss(logits):
        options = {"temperature": temperature, "alpha": 0.6}
        return distillation_sums(logits, labels, targets, **options).loss

    loss(student).backward()
    step = 1e-2
    for row, column in [(0, 0), (1, 5), (2, int(targets.topk_ids[2, 0])), (0, 29)]:
        moved = [student.detach().clone() for _ in range(2)]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        numeric = float(loss(moved[0]) - loss(moved[1])) / (2 * step)
        assert float(student.grad[row, column]) == pytest.approx(numeric, abs=2e-3)


def test_temperature_squared_keeps_gradients_of_one_size():
    targets = to_soft_targets(random_logits(50, 100, 0.3, seed=1), 100)
    sizes = []
    for temperature in (2.0, 4.0):
        student = random_logits(50, 100, 0.3, seed=2).requires_grad_()
        labels = torch.zeros(50, dtype=torch.int64)
        options = {"temperature": temperature, "alpha": 1.0}
        distillation_sums(student, labels, targets, **options).loss.backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_loss_is_the_weighted_sum_of_its_parts():
    targets = to_soft_targets(random_logits(4, 50, 2.0), 8)
    sums = distillation_sums(
        random_logits(4, 50, 1.0, seed=3), torch.arange(4), targets, temperature=2.0, alpha=0.3
    )
    assert float(sums.loss) == pytest.approx(float(0.3 * sums.distillation + 0.7 * sums.ce))


def test_half_precision_logits_lose_no_more_than_their_rounding():
    targets = to_soft_targets(random_logits(8, 500, 2.0, seed=1), 16)
    student = random_logits(8, 500, 2.0, seed=2).bfloat16()
    found = float(sparse_kl_sum(student, targets, 2.0))
    expected = float(sparse_kl_sum(student.float(), targets, 2.0))
    assert found == expected
