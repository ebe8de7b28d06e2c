"""Encoded rows to encoded rows of another format, without the teacher.

What a row knows can be given up: entries (their mass moves into the tail's, exactly), bits, the
tail's shape. What it does not know cannot be made up; only a hidden tail knows all. N rows,
K entries, M nodes of the tail mass.
"""

from dataclasses import replace

import torch

from cache.errors import CacheError
from cache.targets.format import TargetFormat
from cache.targets.logprob_codes import EMPTY, encode_logprobs
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.targets.tail_mass import NODES, decode_log_mass, encode_log_mass

LESS = {
    "hidden": ("hidden", "lowrank", "sampled", "mass", "renormalize"),
    "lowrank": ("mass", "renormalize"),
    "sampled": ("sampled", "mass", "renormalize"),
    "mass": ("mass", "renormalize"),
    "renormalize": ("renormalize",),
}
"""The tails that each tail can become."""


def require_derivable(found: TargetFormat, wanted: TargetFormat, where: str) -> None:
    """Raise CacheError unless rows of one format hold what another one needs.

    Args:
        found: the format of the cache there is.
        wanted: the format of the cache to be.
        where: the path of the cache there is, for the message.
    """
    if found == wanted:
        raise CacheError(f"{where} has these targets already ({found.words()}); copy it instead.")
    reason = _obstacle(found, wanted)
    if reason:
        raise CacheError(
            f"{where} cannot become {wanted.words()}: {reason}.\n"
            f"Run the teacher again: python cli.py cache-teacher {wanted.options()} --out ..."
        )


def _obstacle(found: TargetFormat, wanted: TargetFormat) -> str | None:
    if wanted.tail not in LESS[found.tail]:
        if found.tail == wanted.tail:
            return (
                "the coefficients of its lowrank tail are already rounded for its own k, rank and "
                "bytes; only a cache with hidden tails has what other ones are made of"
            )
        return f"its tail is {found.tail}, which holds less than a {wanted.tail} tail"
    if found.tail == "hidden":
        return None
    if wanted.top_k > found.top_k:
        return f"it holds {found.top_k} entries a row, not {wanted.top_k}"
    if found.top_p is not None and (wanted.top_p is None or wanted.top_p > found.top_p):
        return f"its rows end at top-p {found.top_p:g}"
    if wanted.logprob_bits > found.logprob_bits:
        return f"its logprobs have {found.logprob_bits} bits"
    if wanted.tail == "sampled":
        if (wanted.top_k, wanted.top_p) != (found.top_k, found.top_p):
            return "its draws stand for what is outside of its own top-k"
        if wanted.tail_samples > found.tail_samples:
            return f"it holds {found.tail_samples} draws a row, not {wanted.tail_samples}"
    return None


def derive_rows(rows: EncodedRows, source: RowCodec, wanted: TargetFormat) -> EncodedRows:
    """Rows that `source` encoded, as `wanted` has them.

    The log mass of the tail becomes log(exp f(β) + Σ exp(β l)) over the entries l that are
    dropped, at every node β.
    """
    logprobs = source.decode_logprobs(rows["topk_logprobs"])  # (N, K)
    num_entries = min(wanted.top_k, logprobs.shape[-1])
    kept = torch.arange(logprobs.shape[-1]).expand_as(logprobs) < num_entries
    if wanted.top_p is not None:
        probs = logprobs.exp()
        first = torch.arange(logprobs.shape[-1]) == 0
        kept = kept & (probs.cumsum(-1) - probs < wanted.top_p) & (probs > 0) | first
    dropped = logprobs.masked_fill(kept, -torch.inf)
    kept = kept[:, :num_entries]
    ids = rows["topk_ids"][:, :num_entries]
    derived = {
        "topk_ids": torch.where(kept, ids, ids[:, :1]),
        "topk_logprobs": _stored(rows, logprobs, source.targets, wanted, kept),
        **{name: rows[name] for name in ("entropy", "gold_logprob", "gold_rank")},
    }
    if wanted.tail != "renormalize":
        nodes = torch.tensor(NODES)
        moved = (dropped.unsqueeze(1) * nodes.unsqueeze(-1)).logsumexp(-1)  # (N, M)
        log_mass = torch.logaddexp(decode_log_mass(rows["tail_log_mass"]), moved)
        derived["tail_log_mass"] = encode_log_mass(log_mass)
    if wanted.tail == "sampled":
        for name in ("tail_ids", "tail_logprobs"):
            derived[name] = rows[name][:, : wanted.tail_samples]  # draws are independent
    return derived


def _stored(
    rows: EncodedRows,
    logprobs: torch.Tensor,
    found: TargetFormat,
    wanted: TargetFormat,
    kept: torch.Tensor,
) -> torch.Tensor:
    """Stored logprobs of the kept entries; nothing is rounded a second time in the same way."""
    if wanted.logprob_bits < found.logprob_bits:
        stored = encode_logprobs(logprobs)
    else:
        stored = rows["topk_logprobs"]
    empty = EMPTY if wanted.logprob_bits == 8 else -torch.inf
    return stored[:, : kept.shape[-1]].masked_fill(~kept, empty)


def changed_targets(found: TargetFormat, changes: dict) -> TargetFormat:
    """`found` with those of the changes that are not None."""
    return replace(found, **{name: value for name, value in changes.items() if value is not None})
