"""Teacher logits to the soft targets that a shard stores, computed in fp32 from the full row.

N rows, V vocabulary, K top-k, M nodes of the tail mass.
"""

from dataclasses import dataclass

import torch

from cache.errors import CacheError
from cache.tail_mass import NODES, encode_log_mass, tail_powers


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRows:
    """Soft targets of N rows, in the precision they are stored in."""

    topk_ids: torch.Tensor
    """(N, K) int64, most probable first."""
    topk_logprobs: torch.Tensor
    """(N, K) fp16, nats at T = 1."""
    tail_log_mass: torch.Tensor
    """(N, M) int32 codes of `tail_mass.encode_log_mass`."""
    entropy: torch.Tensor
    """(N,) fp16, nats at T = 1."""
    gold_logprob: torch.Tensor
    """(N,) fp16, logprob of the token that follows in the document."""
    gold_rank: torch.Tensor
    """(N,) int64, tokens more probable than it."""


def compute_targets(logits: torch.Tensor, gold_ids: torch.Tensor, top_k: int) -> TargetRows:
    """Soft targets of a slice of rows; K is `min(top_k, V)`.

    Args:
        logits: (N, V) of any float dtype; arithmetic is fp32.
        gold_ids: (N,) int64, the next token of the document.

    Raises:
        CacheError: a row holds NaN or +inf, or nothing finite.
    """
    logits = logits.float()
    topk_logits, topk_ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    maximum = topk_logits[:, :1]
    shifted = logits - maximum
    tail_sums, tail_exp = tail_powers(shifted, topk_ids)  # (N, M), (N, V)
    topk_shifted = topk_logits - maximum
    topk_exp = topk_shifted.exp()
    total = tail_sums[:, -1] + topk_exp.sum(-1)  # (N,) Σ exp(s)
    if not bool(torch.isfinite(total).all()):
        row = int((~torch.isfinite(total)).nonzero()[0])
        raise CacheError(f"the teacher's logits hold NaN or inf (row {row} of the slice)")
    log_total = total.log()
    gold_logits = logits.gather(-1, gold_ids.unsqueeze(-1))
    # -Σ p log p = log Σ exp(s) - Σ p·s; a masked token (s = -inf) adds nothing.
    sum_exp_s = torch.linalg.vecdot(tail_exp, shifted.clamp_min_(-1e4))
    sum_exp_s += (topk_exp * topk_shifted.clamp_min(-1e4)).sum(-1)
    nodes = torch.tensor(NODES, device=logits.device)
    return TargetRows(
        topk_ids=topk_ids,
        topk_logprobs=(topk_shifted - log_total.unsqueeze(-1)).half(),
        tail_log_mass=encode_log_mass(tail_sums.log() - nodes * log_total.unsqueeze(-1)),
        entropy=(log_total - sum_exp_s / total).clamp_min(0).half(),
        gold_logprob=((gold_logits - maximum).squeeze(-1) - log_total).half(),
        gold_rank=_gold_rank(logits, gold_logits, topk_logits),
    )


def _gold_rank(
    logits: torch.Tensor, gold_logits: torch.Tensor, topk_logits: torch.Tensor
) -> torch.Tensor:
    """(N,) tokens above the gold one; only rows whose top-k ends above it are counted in full."""
    rank = (topk_logits > gold_logits).sum(-1)
    beyond = (rank == topk_logits.shape[-1]).nonzero().squeeze(-1)
    if len(beyond):
        rank[beyond] = torch.count_nonzero(logits[beyond] > gold_logits[beyond], dim=-1)
    return rank
