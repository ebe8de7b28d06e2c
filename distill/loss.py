"""Sparse distillation loss: forward KL at temperature T to cached targets, plus cross-entropy.

N rows, V vocabulary.
"""

from typing import NamedTuple

import torch

from cache.soft_targets import SoftTargets


class LossSums(NamedTuple):
    """Sums over rows, fp32 scalars; the caller divides by the rows of the whole step."""

    loss: torch.Tensor
    """alpha · distillation + (1 - alpha) · ce."""
    distillation: torch.Tensor
    """T² · KL(p_T ‖ q_T)."""
    ce: torch.Tensor
    """-log q_1(label)."""


def distillation_sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    targets: SoftTargets,
    *,
    temperature: float,
    alpha: float,
) -> LossSums:
    """alpha · T² · KL(teacher_T ‖ student_T) + (1 - alpha) · CE, summed over rows, in nats.

    T² keeps the gradient of the distillation term of the same size at every temperature.

    Args:
        logits: (N, V) of the student, any float dtype; arithmetic is fp32.
        labels: (N,) int64, the token that follows.
        targets: N rows of the cache.
        temperature: T, in [1, 4].
        alpha: weight of the teacher's term, in [0, 1].

    Raises:
        CacheError: the temperature is outside of what the cache covers.

    Source: Hinton et al. 2015, section 2.1 and eq. 4.
    """
    logits = logits.float()
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    distillation = temperature**2 * sparse_kl_sum(logits, targets, temperature)
    return LossSums(alpha * distillation + (1 - alpha) * ce, distillation, ce)


def sparse_kl_sum(logits: torch.Tensor, targets: SoftTargets, temperature: float) -> torch.Tensor:
    """Σ over rows of KL(p_T ‖ q_T) in nats, with q_T the full softmax of the student.

    With what named entries hold (p_j), an even share r of every token and, for tails that give
    each token its own probability, a dense part d, and z = logits / T,

        KL = Σ p log p - [Σ_named p_j z_j + r Σ_V z_j + Σ_V d_j z_j] + (Σ p) · log Σ exp z

    so that a dense target exists only where the tail is dense. Σ p is 1 except for sampled
    tails, where it is 1 in expectation.
    """
    scaled = logits.float() / temperature  # (N, V)
    target = targets.at(temperature)
    expected = (target.probs * scaled.gather(-1, target.ids)).sum(-1)
    total = target.probs.sum(-1)
    if target.share is not None:
        expected = expected + target.share * scaled.sum(-1)
        total = total + target.share * scaled.shape[-1]
    if target.dense is not None:
        expected = expected + torch.linalg.vecdot(target.dense, scaled)
        total = total + target.dense.sum(-1)
    return (target.neg_entropy - expected + total * scaled.logsumexp(-1)).sum()
