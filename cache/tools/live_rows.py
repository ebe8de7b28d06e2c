"""Rows of a cache beside the same rows made anew, and how far apart they may be.

N rows, V vocabulary, K cached entries. Both sides went through one encoder, so what differs is
what rounds differently when a document is run alone and when it is run in a batch.
"""

from dataclasses import dataclass

import torch

from cache.errors import CacheError
from cache.machine.precision import DTYPES, dtype_name, precision_named
from cache.storage.identity import Identity
from cache.targets.fidelity import MEASURES, measure_rows
from cache.targets.logprob_codes import LOWEST_NATS, error_bound
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.targets.tail_mass import LOWEST_NATS as LOWEST_MASS
from cache.targets.tail_mass import STEP_NATS, decode_log_mass

FLOOR = 1e-3
ROUNDINGS = 8
"""Roundings of the largest logit that a row's logits may differ by."""
TEMPERATURES = (1.0, 2.0)
VARIATION = "total_variation"
"""Beginning of the names of what is compared of decoded targets, one a temperature."""


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
    def excess(self) -> torch.Tensor:
        """(N,) by how much the difference is beyond the tolerance; NaN is beyond all."""
        return (self.difference - self.tolerance).nan_to_num(nan=torch.inf)


def compare_rows(
    logits: torch.Tensor,
    stored: EncodedRows,
    live: EncodedRows,
    codec: RowCodec,
    dtype: torch.dtype,
) -> dict[str, RowComparison]:
    """Stored rows beside `live`, which are `logits` (N, V) encoded as stage one does.

    With u the unit roundoff of the teacher's dtype and z a row's largest absolute logit, logits
    may differ by 8 · u · z: SmolLM2-135M needed up to 3.6 in bf16 and 5.1 in fp16. To that comes
    what storage rounds, and 0.001. A change of all logits by at most d moves a logprob and the
    log mass by 2 d, the entropy by 2 d · entropy and a total variation by d, to first order.

    Decoded targets are held against the teacher's softmax at two temperatures. They may be as far
    from it as those made anew, and half as much again.
    """
    log_probs = logits.float().log_softmax(-1)
    finite = logits.float().masked_fill(~torch.isfinite(logits), 0.0)
    noise = ROUNDINGS * torch.finfo(dtype).eps / 2 * finite.abs().amax(-1)  # (N,)
    found = {
        "topk_logprobs": _topk(log_probs, stored, live, codec, noise),
        "gold_logprob": _halves(stored["gold_logprob"], live["gold_logprob"], noise),
        "entropy": _halves(
            stored["entropy"], live["entropy"], noise * live["entropy"].float().clamp_min(1)
        ),
    }
    same_entries = torch.ones_like(noise, dtype=torch.bool)
    if codec.targets.top_p is not None:  # one entry more or less at the edge
        counts = [torch.isneginf(codec.decode_logprobs(r["topk_logprobs"])) for r in (stored, live)]
        same_entries = counts[0].sum(-1) == counts[1].sum(-1)
    if "tail_log_mass" in stored:
        mass, fresh = (
            decode_log_mass(rows["tail_log_mass"]).clamp_min(LOWEST_MASS) for rows in (stored, live)
        )
        tolerance = (FLOOR + STEP_NATS + noise).where(same_entries, torch.inf)
        found["tail_log_mass"] = _worst(mass, fresh, tolerance.unsqueeze(-1))
    if "tail_logprobs" in stored:  # draws are other ones each time
        drawn = log_probs.gather(-1, stored["tail_ids"].long())
        has_tail = stored["tail_log_mass"].long()[:, -1:] > 0
        bound = (FLOOR + noise.unsqueeze(-1) + _half_step(drawn)).where(has_tail, torch.inf)
        found["tail_logprobs"] = _worst(stored["tail_logprobs"].float(), drawn, bound)
    return found | _decoded(logits, stored, live, codec, noise, same_entries)


def _topk(
    log_probs: torch.Tensor,
    stored: EncodedRows,
    live: EncodedRows,
    codec: RowCodec,
    noise: torch.Tensor,
) -> RowComparison:
    """The j-th entry beside the j-th made anew, and beside what the teacher gives its token.

    Tokens of equal logprobs may stand in any order, or be cut off at k, but none may be missing.
    """
    ids = stored["topk_ids"].long()
    values, fresh = (codec.decode_logprobs(rows["topk_logprobs"]) for rows in (stored, live))
    is_byte = codec.targets.logprob_bits == 8
    lowest = -LOWEST_NATS if is_byte else float(torch.finfo(torch.float16).min)
    expected = torch.cat([fresh, log_probs.gather(-1, ids)], -1).clamp_min(lowest)  # (N, 2K)
    tolerance = FLOOR + 2 * (error_bound(expected) if is_byte else _half_step(expected))
    tolerance = tolerance + noise.unsqueeze(-1)
    unused = torch.isneginf(fresh)
    if codec.targets.top_p is not None:
        unused = unused | (torch.isneginf(values) & (ids == ids[:, :1]))
        unused[:, 0] = False
    tolerance = tolerance.masked_fill(unused.repeat(1, 2), torch.inf)
    return _worst(values.clamp_min(lowest).repeat(1, 2), expected, tolerance)


def _decoded(
    logits: torch.Tensor,
    stored: EncodedRows,
    live: EncodedRows,
    codec: RowCodec,
    noise: torch.Tensor,
    same_entries: torch.Tensor,
) -> dict[str, RowComparison]:
    """Total variation from the teacher of the targets that are stored, and of those made anew."""
    measured, fresh = (
        measure_rows(logits, codec.decode(rows), TEMPERATURES).view(len(logits), -1, len(MEASURES))
        for rows in (stored, live)
    )
    found = {}
    for i, temperature in enumerate(TEMPERATURES):
        captured, variation = (
            [part[:, i, MEASURES.index(name)] for part in (measured, fresh)]
            for name in ("captured", "total_variation")
        )
        tolerance = 2 * FLOOR + 0.5 * variation[1] + noise / 2
        tolerance = tolerance + (captured[0] - captured[1]).abs().masked_fill(same_entries, 0.0)
        if codec.targets.tail == "sampled":
            tolerance = tolerance.fill_(torch.inf)
        found[f"{VARIATION} at T = {temperature:g}"] = RowComparison(
            stored=variation[0], live=variation[1].minimum(variation[0]), tolerance=tolerance
        )
    return found


def _halves(stored: torch.Tensor, live: torch.Tensor, noise: torch.Tensor) -> RowComparison:
    limit = torch.finfo(torch.float16).max
    stored, live = stored.float().clamp(-limit, limit), live.float().clamp(-limit, limit)
    return RowComparison(stored=stored, live=live, tolerance=FLOOR + 2 * _half_step(live) + noise)


def _half_step(values: torch.Tensor) -> torch.Tensor:
    """What storing in fp16 rounds at most."""
    return values.abs() * 2**-11


def _worst(stored: torch.Tensor, live: torch.Tensor, tolerance: torch.Tensor) -> RowComparison:
    """Of (N, ...) entries the one furthest beyond its tolerance, in each row."""
    parts = torch.broadcast_tensors(stored, live, tolerance)
    entries = RowComparison(**dict(zip(("stored", "live", "tolerance"), parts, strict=True)))
    worst = entries.excess.argmax(-1, keepdim=True)
    return RowComparison(
        **{name: value.gather(-1, worst).squeeze(-1) for name, value in vars(entries).items()}
    )


def join(parts: list[RowComparison]) -> RowComparison:
    """The rows of all parts, on the CPU."""
    names = ("stored", "live", "tolerance")
    joined = {name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in names}
    return RowComparison(**joined)


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
