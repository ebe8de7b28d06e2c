"""What a student is trained to lower: terms, sums, and the plain formula of the teacher's term.

N rows, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from cache.targets.soft_targets import SoftTargets


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """alpha · T^s · D(p_T, q_T) + (1 - alpha) · CE, where s keeps gradients of one size."""

    temperature: float
    """T, in [1, 4], of teacher and student in the distillation term."""
    alpha: float
    """Weight of the distillation term, in [0, 1]."""
    divergence: str = "forward_kl"
    """D; see `distill.loss.divergences`."""


class LossSums(NamedTuple):
    """Sums over rows, scalars; the caller divides by the rows of the whole step."""

    loss: torch.Tensor
    """alpha · distillation + (1 - alpha) · ce."""
    distillation: torch.Tensor
    """T^s · D(p_T, q_T): T² · KL(p_T ‖ q_T) for the forward KL."""
    ce: torch.Tensor
    """-log q_1(label)."""


class YardstickSums(NamedTuple):
    """Sums over rows, scalars, that mean the same whatever a student is trained with."""

    kl: torch.Tensor
    """KL(p ‖ q) at T = 1, in nats."""
    cross_entropy: torch.Tensor
    """-log q(label), in nats."""
    top1: torch.Tensor
    """Rows whose most likely token is the teacher's."""


def sparse_kl_sum(logits: torch.Tensor, targets: SoftTargets, temperature: float) -> torch.Tensor:
    """Σ over rows of KL(p_T ‖ q_T) in nats, with q_T the full softmax of the student.

    With what named entries hold (p_j), a uniform part r of the U tokens and, for tails that give
    each token its own probability, a dense part d, and z = logits / T,

        KL = Σ p log p - [Σ_named p_j z_j + r Σ_U z_j + Σ_V d_j z_j] + (Σ p) · log Σ exp z

    so that a dense target exists only where the tail is dense. Σ p is 1 except for sampled
    tails, where it is 1 in expectation.
    """
    scaled = logits.float() / temperature  # (N, V)
    target = targets.at(temperature)
    expected = (target.probs * scaled.gather(-1, target.ids)).sum(-1)
    total = target.probs.sum(-1)
    if target.uniform is not None:
        expected = expected + target.uniform * scaled[:, : target.num_uniform].sum(-1)
        total = total + target.uniform * target.num_uniform
    if target.rest is not None:
        dense = target.rest.probs()
        expected = expected + torch.linalg.vecdot(dense, scaled)
        total = total + dense.sum(-1)
    return (target.neg_entropy - expected + total * scaled.logsumexp(-1)).sum()
