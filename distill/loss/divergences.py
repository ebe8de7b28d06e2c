"""How far the student's distribution is from the teacher's, and its gradient, slice by slice.

Each works on a few rows at a time: logits come in, and what the logits' gradient needs comes
out in the same memory. n rows of a slice, V vocabulary, J named entries of a row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from cache.targets.tails import TargetDistribution
from distill.errors import DistillError

Pair = tuple[torch.Tensor, torch.Tensor]


class Student(NamedTuple):
    """q_T of n rows, unnormalised: exp(z_j / T) is `exps`, and q_j is `exps` over `sums`."""

    shifted: torch.Tensor
    """(n, V): logits z minus their maximum."""
    exps: torch.Tensor
    """(n, V); becomes the gradient."""
    sums: torch.Tensor
    """(n,)."""
    beta: float
    """1 / T."""


def forward_kl(
    student: Student, target: TargetDistribution, rest: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """(n,) KL(p ‖ q), as in `sparse_kl_sum`; `scale` · (q - p) goes to `student.exps`.

    A rest's share of the KL needs one exponential a token and no logarithm: with f = exp(s),
    F = Σ f and mass τ, it is τ (log τ - log F + Σ f (s - z/T) / F) + τ log Σ exp(z/T).

    Args:
        rest: (n, V) logits of the target's rest; overwritten.
        scale: None where no gradient is wanted.
    """
    shifted, exps, sums, beta = student
    probs = target.probs.to(exps.dtype)
    value = target.named_neg_entropy - beta * (probs * shifted.gather(-1, target.ids)).sum(-1)
    total = probs.sum(-1)
    if target.uniform is not None:
        value = value - beta * target.uniform * shifted[:, : target.num_uniform].sum(-1)
        total = total + target.uniform * target.num_uniform
    if target.rest is not None and rest is not None:
        log_mass = target.rest.log_mass.to(exps.dtype)
        mass = log_mass.exp()
        rest.sub_(rest.amax(-1, keepdim=True))
        weights = exponentials(rest)
        weight_sums = weights.sum(-1)
        within = rest.sub_(shifted, alpha=beta).mul_(weights).sum(-1) / weight_sums
        value = value + torch.special.xlogy(mass, mass) + mass * (within - weight_sums.log())
        total = total + mass
    if scale is not None:
        exps.mul_((scale * total / sums).unsqueeze(-1))
        if target.uniform is not None:
            uniform = target.uniform.to(exps.dtype).unsqueeze(-1)
            exps[:, : target.num_uniform].sub_(scale * uniform)
        if target.rest is not None and rest is not None:
            exps.addcmul_(weights, (scale * mass / weight_sums).unsqueeze(-1), value=-1)
        exps.scatter_add_(-1, target.ids, -scale * probs)
    return value + total * sums.log()


def row_dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n,) sums over the vocabulary of products of (n, V)."""
    return (left * right).sum(-1)


def exponentials(logits: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """exp(beta · logits), by powers of two: on CPUs torch computes those in half the time."""
    return (logits * (beta / math.log(2))).exp2_()


def reverse_kl(p: torch.Tensor, q: torch.Tensor, log_q: torch.Tensor) -> Pair:
    """KL(q ‖ p), and its derivative by q but for a constant."""
    difference = log_q - _log(p)
    return row_dot(q, difference), difference


def jensen_shannon(p: torch.Tensor, q: torch.Tensor, log_q: torch.Tensor) -> Pair:
    """½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2, and its derivative by q."""
    log_m = _log((p + q) / 2)
    difference = log_q - log_m
    of_p = (torch.special.xlogy(p, p) - p * log_m).sum(-1)
    return (of_p + row_dot(q, difference)) / 2, difference / 2


def total_variation(p: torch.Tensor, q: torch.Tensor, log_q: torch.Tensor) -> Pair:
    """½ Σ |p - q|, and its derivative by q."""
    difference = q - p
    return difference.abs().sum(-1) / 2, difference.sign() / 2


DENSE: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Pair]] = {
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "total_variation": total_variation,
}
"""Divergences of two dense distributions (n, V): the value, and its derivative by q."""


def require_divergence_fits(divergence: str, tail: str) -> None:
    """Raises DistillError where a cache's targets make a divergence wrong.

    Args:
        tail: the cache's, as in its identity.
    """
    why = None
    if tail == "sampled" and divergence != "forward_kl":
        why = "draws are the target only in expectation, and only the forward KL is linear in it"
    elif tail == "renormalize" and divergence == "reverse_kl":
        why = "a renormalised top-k gives every other token probability 0: it is infinite"
    if why is not None:
        raise DistillError(
            f"divergence is {divergence}, but the cache's tail is {tail}, and {why}. Use "
            "divergence: forward_kl in the recipe, or a cache with another tail: "
            "python cli.py cache-teacher --tail lowrank ..."
        )


def gradient_order(divergence: str) -> int:
    """s: gradients by logits shrink as 1/T^s, so the loss has T^s in front.

    At high temperature p - q is proportional to 1/T. All but the total variation are quadratic
    in it.
    """
    return 1 if divergence == "total_variation" else 2


def dense_divergence(
    divergence: str,
    student: Student,
    target: TargetDistribution,
    rest: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """(n,) of a divergence that needs p and q of every token; arguments as in `forward_kl`.

    By the chain rule through the softmax the gradient is q (u - Σ q u), with u the derivative by q.
    """
    shifted, exps, sums, beta = student
    p = _dense(target, rest, exps)
    log_q = (shifted * beta).sub_(sums.log().unsqueeze(-1))
    q = exps.div_(sums.unsqueeze(-1))
    value, slope = DENSE[divergence](p, q, log_q)
    if scale is not None:
        q.mul_(slope.sub_(row_dot(q, slope).unsqueeze(-1))).mul_(scale)
    return value


def _dense(
    target: TargetDistribution, rest: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor:
    if target.rest is not None and rest is not None:
        p = rest.softmax(-1).mul_(target.rest.log_mass.exp().unsqueeze(-1))
    else:
        p = torch.zeros_like(like)
    if target.uniform is not None:
        p[:, : target.num_uniform] += target.uniform.unsqueeze(-1)
    return p.scatter_add_(-1, target.ids, target.probs.to(p.dtype))


def _log(probs: torch.Tensor) -> torch.Tensor:
    """A probability below the smallest normal number counts as that number."""
    return probs.clamp_min(math.exp(-87)).log()
