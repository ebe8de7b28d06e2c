"""Rows of a cache beside the teacher's logits, and how far apart they may be.

N rows, V vocabulary, K cached entries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cache.errors import CacheError
from cache.machine.precision import DTYPES, dtype_name, precision_named
from cache.storage.identity import Identity
from cache.targets.logprob_codes import LOWEST_NATS, error_bound

FLOOR_NATS = 1e-3
ROUNDINGS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRows:
    """What a cache holds of N rows, fp32, in nats."""

    topk_ids: torch.Tensor
    """(N, K) int64; an entry that repeats the first id is unused."""
    topk_logprobs: torch.Tensor
    """(N, K)."""
    gold_logprob: torch.Tensor
    """(N,)."""
    entropy: torch.Tensor
    """(N,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowComparison:
    """One quantity of N rows: for each, the entry furthest beyond or closest to its tolerance."""

    stored: torch.Tensor
    """(N,)."""
    live: torch.Tensor
    """(N,)."""
    tolerance: torch.Tensor
    """(N,)."""

    @property
    def difference(self) -> torch.Tensor:
        """(N,)."""
        return (self.stored - self.live).abs()

    @property
    def is_beyond(self) -> torch.Tensor:
        """(N,) bool; NaN is beyond."""
        return ~(self.difference <= self.tolerance)


def compare_rows(
    logits: torch.Tensor,
    gold_ids: torch.Tensor,
    stored: StoredRows,
    *,
    identity: Identity,
) -> dict[str, RowComparison]:
    """Stored rows beside the teacher's, with the difference that is allowed for each.

    Top-k entries are compared by the logprob that the teacher gives the stored id, and their
    j-th with the teacher's j-th largest: tokens with equal logprobs may stand in any order, or
    be cut off at k, but none may be missing.

    With x the teacher's value, u the unit roundoff of its dtype (2^-8 for bf16, 2^-11 for fp16,
    2^-24 for fp32) and z the row's largest absolute logit, the tolerance is

        1e-3 + storage(x) + 8 · u · z                     for logprobs,
        1e-3 + storage(x) + 8 · u · z · max(1, entropy)   for the entropy,

    where storage(x) = 2^-11 · |x| is the rounding of fp16, and for top-k logprobs in 8 bits that
    of their codes. 8 · u · z stands for the roundings of the logits, which are not the same when
    a document is run alone and when it is run in a batch; a change of all logits by at most d
    moves a logprob by 2 · d and the entropy by 2 · d · entropy, to first order. SmolLM2-135M
    needed up to 3.6 · u · z in bf16 and 5.1 · u · z in fp16.

    Args:
        logits: (N, V), any float dtype; arithmetic is fp32.
        gold_ids: (N,) int64.
        stored: the same rows of the cache.
        identity: the cache's, for its dtype and storage.

    Raises:
        CacheError: the identity names no known dtype.
    """
    logits = logits.float()
    logprobs = logits.log_softmax(-1)  # (N, V)
    entropy = -(logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1)  # (N,)
    finite = logits.masked_fill(~torch.isfinite(logits), 0.0)
    noise = ROUNDINGS * _unit_roundoff(identity) * finite.abs().amax(-1)  # (N,)
    gold = logprobs.gather(-1, gold_ids.unsqueeze(-1)).squeeze(-1)
    return {
        "topk_logprobs": _compare_topk(logprobs, stored, noise, identity),
        "gold_logprob": _compare_halves(stored.gold_logprob, gold, noise),
        "entropy": _compare_halves(stored.entropy, entropy, noise * entropy.clamp_min(1)),
    }


def _compare_topk(
    logprobs: torch.Tensor, stored: StoredRows, noise: torch.Tensor, identity: Identity
) -> RowComparison:
    lowest, rounding = _topk_storage(identity)
    ids = stored.topk_ids
    found = stored.topk_logprobs.clamp_min(lowest).repeat(1, 2)  # (N, 2K)
    by_id = logprobs.gather(-1, ids)
    by_rank = logprobs.topk(ids.shape[-1], dim=-1).values
    live = torch.cat([by_id, by_rank], -1).clamp_min(lowest)
    tolerance = FLOOR_NATS + rounding(live) + noise.unsqueeze(-1)
    unused = ids == ids[:, :1]
    unused[:, 0] = False
    excess = (found - live).abs() - tolerance
    excess = excess.nan_to_num(nan=torch.inf).masked_fill(unused.repeat(1, 2), -torch.inf)
    worst = excess.argmax(-1, keepdim=True)
    return RowComparison(
        stored=found.gather(-1, worst).squeeze(-1),
        live=live.gather(-1, worst).squeeze(-1),
        tolerance=tolerance.gather(-1, worst).squeeze(-1),
    )


def _compare_halves(stored: torch.Tensor, live: torch.Tensor, noise: torch.Tensor) -> RowComparison:
    limit = torch.finfo(torch.float16).max
    live = live.clamp(-limit, limit)
    return RowComparison(
        stored=stored.clamp(-limit, limit),
        live=live,
        tolerance=FLOOR_NATS + _half_rounding(live) + noise,
    )


def _half_rounding(values: torch.Tensor) -> torch.Tensor:
    return values.abs() * 2**-11


def _topk_storage(
    identity: Identity,
) -> tuple[float, Callable[[torch.Tensor], torch.Tensor]]:
    """The lowest logprob that top-k entries can hold, and the rounding of those above."""
    if identity.targets.logprob_bits == 8:
        return -LOWEST_NATS, error_bound
    return -torch.finfo(torch.float16).max, _half_rounding


def teacher_dtype(identity: Identity) -> torch.dtype:
    """The dtype in which a cache's teacher ran.

    Raises:
        CacheError: the identity names none that is known.
    """
    try:
        return DTYPES[precision_named(identity.dtype)]
    except KeyError as error:
        raise CacheError(
            f"The cache's teacher ran in {identity.dtype!r}, which is none of "
            f"{', '.join(map(dtype_name, DTYPES.values()))}: rows cannot be compared. Build the "
            "cache again."
        ) from error


def _unit_roundoff(identity: Identity) -> float:
    return torch.finfo(teacher_dtype(identity)).eps / 2
