"""Output head, distillation and cross-entropy in one: (N, V) never exists.

A slice of rows goes through the head, its logits become their own gradient in place, and that
gradient is multiplied into those of hidden states and head before the next slice comes: the loss
is a sum, so its gradient is known up to one factor, which the backward pass brings.

Letters of shapes: N rows, n rows of a slice, D width, V vocabulary, K named entries.

Source: Liger Kernel (Hsu et al. 2024, section 3.2, "FusedLinearCrossEntropy"), for cross-entropy.
"""

from collections.abc import Iterator
from typing import Any

import torch

from cache.soft_targets import SoftTargets
from cache.tails import TargetDistribution
from distill.divergences import Student, dense_divergence, forward_kl, gradient_order
from distill.loss import LossSums, LossTerms

SLICE_BYTES = 48 << 20
"""Logits of one slice of rows: enough for the matrix products to run at full speed."""
CPU_PASS_BYTES = 4 << 20
"""Logits that go through the elementwise passes together on a CPU: they stay in its caches."""


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
    float64 hidden states). The gradients are formed in the forward pass, and only there: a second
    backward pass through the same losses raises torch's RuntimeError.

    Args:
        hidden: (N, D), N may be 0.
        weight: (V, D) of a head without bias.
        labels: (N,) int64, the token that follows.
        targets: N rows of the cache.

    Raises:
        CacheError: the temperature is outside of what the cache covers.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        target = targets.at(terms.temperature)
        forms_gradients = torch.is_grad_enabled()
        return LossSums(
            *_HeadLosses.apply(hidden, weight, labels, target, terms, dtype, forms_gradients)
        )


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden, weight, labels, target, terms, dtype, forms_gradients):
        wanted = [forms_gradients and wants for wants in ctx.needs_input_grad[:2]]
        head = _Head(hidden.to(dtype), weight.to(dtype), *wanted)
        sums = torch.zeros(2, dtype=head.exact, device=hidden.device)
        for rows in _slices(len(hidden), SLICE_BYTES, head.row_bytes):
            logits = head.logits(rows)  # (n, V)
            sums += _losses_of_slice(logits, labels[rows], target.rows(rows), terms, any(wanted))
            head.add_gradients(rows, logits)
        ctx.save_for_backward(head.hidden_grad, head.weight_grad)
        ctx.dtypes = hidden.dtype, weight.dtype
        distillation, ce = sums.unbind()
        ctx.mark_non_differentiable(distillation, ce)
        return terms.alpha * distillation + (1 - terms.alpha) * ce, distillation, ce

    @staticmethod
    def backward(ctx: Any, grad_loss, *_):
        # In place: torch notices a second backward pass, as what was saved has changed since.
        grads = [
            None if grad is None else grad.mul_(grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None


class _Head:
    """The three matrix products of an output head, slice by slice into the same memory."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, *wanted: bool) -> None:
        """`hidden` (N, D) and `weight` (V, D) in one dtype; `wanted`: gradients of which."""
        self.hidden, self.weight = hidden, weight
        self.exact = torch.promote_types(hidden.dtype, torch.float32)
        self.row_bytes = len(weight) * self.exact.itemsize
        self._buffer: torch.Tensor | None = None
        self.hidden_grad, self.weight_grad = (
            torch.empty_like(tensor, dtype=self.exact) if wants else None
            for tensor, wants in zip((hidden, weight), wanted, strict=True)
        )
        if self.weight_grad is not None and not len(hidden):
            self.weight_grad.zero_()

    def logits(self, rows: slice) -> torch.Tensor:
        """(n, V), in memory that the next slice uses again."""
        hidden = self.hidden[rows]
        if self.hidden.dtype != self.exact:
            return torch.mm(hidden, self.weight.T).to(self.exact)
        if self._buffer is None:
            self._buffer = hidden.new_empty(len(hidden), len(self.weight))
        return torch.mm(hidden, self.weight.T, out=self._buffer[: len(hidden)])

    def add_gradients(self, rows: slice, grad: torch.Tensor) -> None:
        """Add what a slice's logits' gradient (n, V) means for hidden states and head."""
        hidden, grad = self.hidden[rows], grad.to(self.hidden.dtype)
        if self.hidden_grad is not None:
            if grad.dtype == self.exact:
                torch.mm(grad, self.weight, out=self.hidden_grad[rows])
            else:
                self.hidden_grad[rows] = torch.mm(grad, self.weight)
        if self.weight_grad is not None:
            is_first = rows.start == 0
            if grad.dtype != self.exact:
                product = torch.mm(grad.T, hidden)
                self.weight_grad.copy_(product) if is_first else self.weight_grad.add_(product)
            else:
                beta = 0 if is_first else 1
                self.weight_grad.addmm_(grad.T, hidden, beta=beta)


def _losses_of_slice(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: TargetDistribution,
    terms: LossTerms,
    wants_gradient: bool,
) -> torch.Tensor:
    """(2,) sums of distillation and cross-entropy; the gradient by logits (n, V) in their place."""
    rest = None
    if target.rest is not None:
        rest = target.rest.logits(out=torch.empty_like(logits))
    size = CPU_PASS_BYTES if logits.device.type == "cpu" else SLICE_BYTES
    row_bytes = logits.shape[-1] * logits.itemsize
    return torch.stack(
        [
            _pass(
                logits[rows],
                labels[rows],
                target.rows(rows),
                None if rest is None else rest[rows],
                terms,
                wants_gradient,
            )
            for rows in _slices(len(logits), size, row_bytes)
        ]
    ).sum(0)


def _pass(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: TargetDistribution,
    rest: torch.Tensor | None,
    terms: LossTerms,
    wants_gradient: bool,
) -> torch.Tensor:
    """As `_losses_of_slice`, for rows few enough to stay in a cache."""
    temperature, alpha = terms.temperature, terms.alpha
    order = gradient_order(terms.divergence)
    shifted = logits.sub_(logits.amax(-1, keepdim=True))
    of_label = shifted.gather(-1, labels.unsqueeze(-1))
    exps = (shifted / temperature).exp_()
    student = Student(shifted, exps, exps.sum(-1), 1 / temperature)
    scale = alpha * temperature ** (order - 1) if wants_gradient else None
    if terms.divergence == "forward_kl":
        divergence = forward_kl(student, target, rest, scale)
    else:
        divergence = dense_divergence(terms.divergence, student, target, rest, scale)
    probs = shifted.exp_()
    sums = probs.sum(-1)
    if wants_gradient:
        weights = (1 - alpha) / sums.unsqueeze(-1)
        torch.addcmul(exps, probs, weights, out=logits)
        logits.scatter_add_(-1, labels.unsqueeze(-1), logits.new_full((len(labels), 1), alpha - 1))
    ce = sums.log() - of_label.squeeze(-1)
    return torch.stack([temperature**order * divergence.sum(), ce.sum()])


def _slices(num_rows: int, num_bytes: int, row_bytes: int) -> Iterator[slice]:
    """Even slices of rows, of at most so many bytes, but at least one row."""
    most = max(1, num_bytes // row_bytes)
    size = -(-num_rows // max(1, -(-num_rows // most)))
    for start in range(0, num_rows, max(1, size)):
        yield slice(start, min(start + size, num_rows))
