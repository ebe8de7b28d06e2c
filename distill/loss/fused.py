"""Output head, distillation and cross-entropy in one: (N, V) never exists.

A slice of rows goes through the head, its logits become their own gradient in place, and that
gradient is multiplied into those of hidden states and head before the next slice comes: the loss
is a sum, so its gradient is known up to one factor, which the backward pass brings.

Letters of shapes: N rows, n rows of a slice, D width, V vocabulary.

Source: Liger Kernel (Hsu et al. 2024, section 3.2, "FusedLinearCrossEntropy"), for cross-entropy.
"""

from collections.abc import Iterator
from typing import Any

import torch

from cache.targets.soft_targets import SoftTargets
from cache.targets.tails import TargetDistribution
from distill.loss.divergences import (
    Student,
    dense_divergence,
    exponentials,
    forward_kl,
    gradient_order,
)
from distill.loss.terms import LossSums, LossTerms, YardstickSums

SLICE_BYTES = 48 << 20
"""Logits of one slice of rows: enough for the matrix products to run at full speed."""
CPU_PASS_BYTES = 4 << 20
"""Logits that go through the elementwise passes together on a CPU: they stay in its caches."""

FP16_SCALE = 16.0
"""Keeps the probabilities of rare tokens above fp16's smallest numbers: the scale of the loss
itself comes only in the backward pass."""
PLAIN_KL = LossTerms(temperature=1.0, alpha=1.0)


@torch.compiler.disable
def head_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    targets: SoftTargets,
    terms: LossTerms,
) -> LossSums:
    """Loss sums over rows, with gradients of `loss` for hidden states and head.

    Products run in autocast's dtype where it is on, everything else in fp32 (in float64 for
    float64 hidden states). The gradients are formed in the forward pass; without grad mode they
    are not formed. A second backward pass through the same losses raises torch's RuntimeError.

    Args:
        hidden: (N, D), N may be 0.
        weight: (V, D) of a head without bias.
        labels: (N,) int64, the token that follows.
        targets: N rows of the cache.

    Raises:
        CacheError: the temperature is outside of what the cache covers.
    """
    dtype = dtype_of_products(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        target = targets.at(terms.temperature)
        forms_gradients = torch.is_grad_enabled()
        return LossSums(
            *_HeadLosses.apply(hidden, weight, labels, target, terms, dtype, forms_gradients)
        )


@torch.no_grad()
def head_yardsticks(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, targets: SoftTargets
) -> YardstickSums:
    """What compares students of any temperature, alpha and divergence; arguments as above."""
    dtype = dtype_of_products(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        target, likeliest = targets.at(1.0), targets.likeliest_ids
        head = _Head(hidden.to(dtype), weight.to(dtype), False, False)
        sums = torch.zeros(3, dtype=head.exact, device=hidden.device)
        for rows in _slices(len(hidden), SLICE_BYTES, head.row_bytes):
            logits = head.logits(rows)  # (n, V)
            sums[2] += (logits.argmax(-1) == likeliest[rows]).sum()
            sums[:2] += _slice_losses(logits, labels[rows], target.rows(rows), PLAIN_KL, head)
        return YardstickSums(*sums.unbind())


def dtype_of_products(hidden: torch.Tensor) -> torch.dtype:
    """Autocast's where it is on, else that of the hidden states."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden, weight, labels, target, terms, dtype, forms_gradients):
        wanted = [forms_gradients and wants for wants in ctx.needs_input_grad[:2]]
        head = _Head(hidden.to(dtype), weight.to(dtype), *wanted)
        sums = torch.zeros(2, dtype=head.exact, device=hidden.device)
        for rows in _slices(len(hidden), SLICE_BYTES, head.row_bytes):
            logits = head.logits(rows)  # (n, V)
            sums += _slice_losses(logits, labels[rows], target.rows(rows), terms, head)
            head.add_gradients(rows, logits)
        ctx.save_for_backward(head.hidden_grad, head.weight_grad)
        ctx.dtypes = hidden.dtype, weight.dtype
        distillation, ce = sums.unbind()
        loss = terms.alpha * distillation + (1 - terms.alpha) * ce
        distillation, ce = distillation.clone(), ce.clone()
        ctx.mark_non_differentiable(distillation, ce)
        return loss, distillation, ce

    @staticmethod
    def backward(ctx: Any, grad_loss, *_):
        # In place: torch notices a second backward pass, as what was saved has changed since.
        grads = [
            None if grad is None else grad.mul_(grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


class _Head:
    """The matrix products of a head, slice by slice in the same memory."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, *wanted: bool) -> None:
        """`hidden` (N, D) and `weight` (V, D) in one dtype; `wanted`: gradients of which."""
        self.hidden, self.weight = hidden, weight
        self.exact = torch.promote_types(hidden.dtype, torch.float32)
        self.row_bytes = len(weight) * self.exact.itemsize
        self.wants_gradients = any(wanted)
        self.hidden_grad, self.weight_grad = (
            torch.zeros_like(tensor, dtype=self.exact) if wants else None
            for tensor, wants in zip((hidden, weight), wanted, strict=True)
        )
        self._buffers: dict[str, torch.Tensor] = {}

    def logits(self, rows: slice) -> torch.Tensor:
        """(n, V), in memory that the next slice uses again."""
        return self._product("logits", self.hidden[rows], self.weight)

    def rest_products(self, target: TargetDistribution) -> torch.Tensor | None:
        """(n, V) products of the target's rest, in such memory; None where it has none."""
        if target.rest is None:
            return None
        coefficients = target.rest.scaled_coefficients.to(self.hidden.dtype)
        basis, _ = target.rest.shared.on(coefficients.device, coefficients.dtype)
        return self._product("rest", coefficients, basis)

    def add_gradients(self, rows: slice, logits_grad: torch.Tensor) -> None:
        """Add what a slice's gradient by logits (n, V) means for hidden states and head."""
        scale = FP16_SCALE if self.hidden.dtype == torch.float16 else 1.0
        grad = (logits_grad if scale == 1 else logits_grad.mul_(scale)).to(self.hidden.dtype)
        for total, left, right in (
            (None if self.hidden_grad is None else self.hidden_grad[rows], grad, self.weight),
            (self.weight_grad, grad.T, self.hidden[rows]),
        ):
            if total is not None and grad.dtype == self.exact:
                total.addmm_(left, right)
            elif total is not None:
                total.add_(left @ right, alpha=1 / scale)

    def _product(self, name: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype != self.exact:
            return (left @ right.T).to(self.exact)
        if name not in self._buffers:
            self._buffers[name] = left.new_empty(len(left), len(right))
        return torch.mm(left, right.T, out=self._buffers[name][: len(left)])


def _slice_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: TargetDistribution,
    terms: LossTerms,
    head: _Head,
) -> torch.Tensor:
    """(2,) sums of distillation and cross-entropy; the gradient takes the logits' place (n, V)."""
    products = head.rest_products(target)
    size = CPU_PASS_BYTES if logits.device.type == "cpu" else SLICE_BYTES
    sums = logits.new_zeros(2)
    for rows in _slices(len(logits), size, head.row_bytes):
        part = target.rows(rows)
        rest = None
        if part.rest is not None and products is not None:
            rest = part.rest.logits(products[rows])
        sums += _losses(logits[rows], labels[rows], part, rest, terms, head.wants_gradients)
    return sums


def _losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: TargetDistribution,
    rest: torch.Tensor | None,
    terms: LossTerms,
    wants_gradients: bool,
) -> torch.Tensor:
    """As `_slice_losses`, for rows few enough to stay in a cache."""
    temperature, alpha = terms.temperature, terms.alpha
    order = gradient_order(terms.divergence)
    shifted = logits.sub_(logits.amax(-1, keepdim=True))
    of_labels = shifted.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    exps = exponentials(shifted, 1 / temperature)
    # exp(z) is a power of exp(z / T), and those two cost less than an exponential.
    probs = exps**temperature if temperature in (1, 2) else exponentials(shifted)
    sums = probs.sum(-1)
    student = Student(shifted, exps, exps.sum(-1), 1 / temperature)
    scale = alpha * temperature ** (order - 1) if wants_gradients else None
    if terms.divergence == "forward_kl":
        divergence = forward_kl(student, target, rest, scale)
    else:
        divergence = dense_divergence(terms.divergence, student, target, rest, scale)
    if wants_gradients:
        torch.addcmul(exps, probs, ((1 - alpha) / sums).unsqueeze(-1), out=logits)
        logits.scatter_add_(-1, labels.unsqueeze(-1), logits.new_full((len(labels), 1), alpha - 1))
    return torch.stack([temperature**order * divergence.sum(), (sums.log() - of_labels).sum()])


def _slices(num_rows: int, num_bytes: int, row_bytes: int) -> Iterator[slice]:
    """Even slices of rows, of at most so many bytes, but at least one row."""
    most = max(1, num_bytes // row_bytes)
    size = -(-num_rows // max(1, -(-num_rows // most)))
    for start in range(0, num_rows, max(1, size)):
        yield slice(start, min(start + size, num_rows))
