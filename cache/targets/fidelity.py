"""How true the stored targets are: measured in stage one, while the full logits are at hand.

One row of every SAMPLE_EVERY is decoded as a reader will decode it and held against the teacher's
full softmax, at four temperatures. N rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from cache.errors import CacheError
from cache.targets.soft_targets import SoftTargets

TEMPERATURES = (1.0, 1.5, 2.0, 3.0)
MEASURES = ("captured", "total_variation", "kl", "gradient_cosine", "mass_error")
NUM_MEASURES = len(TEMPERATURES) * len(MEASURES)
FORMER_MEASURES = NUM_MEASURES - len(TEMPERATURES)
"""Columns of a shard that was written before the error of the mass was measured."""
SAMPLE_EVERY = 128


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Stored targets against the teacher's own, at one temperature, over a sample of rows."""

    temperature: float
    num_rows: int
    captured: float
    """Mean probability of the teacher inside the top-k."""
    total_variation: float
    """Mean of ½ Σ |p - p̂|."""
    total_variation_p99: float
    """Its 99th percentile over rows."""
    kl: float
    """Mean of KL(p ‖ p̂) in nats; infinite where p̂ has no mass for what p has."""
    gradient_cosine: float
    """Mean cosine between q - p and q - p̂, the loss's gradients for a uniform student q."""
    mass_error: float | None = None
    """Largest error of the probability outside the top-k; None in caches made before it was
    measured."""


def sampled_rows(seed: int, num_rows: int, every: int = SAMPLE_EVERY) -> list[int]:
    """Which of so many rows are measured: one of every `every`, by a hash of its place.

    Every 128th row would be the same position of all documents of one length.

    Args:
        seed: of these rows: the number of their first document.
    """
    places = []
    for first in range(0, num_rows, every):
        digest = blake2b(f"{seed} {first}".encode(), digest_size=8).digest()
        places.append(first + int.from_bytes(digest, "big") % every)
    return [place for place in places if place < num_rows] or [places[0] % num_rows]


def measure_rows(
    logits: torch.Tensor, targets: SoftTargets, temperatures: Sequence[float] = TEMPERATURES
) -> torch.Tensor:
    """(N, temperatures · measures) fp32: MEASURES at each temperature in turn.

    Args:
        logits: (N, V), the teacher's.
        targets: the same rows, decoded.
    """
    columns = []
    for temperature in temperatures:
        log_p = (logits.float() / temperature).log_softmax(-1)
        p = log_p.exp()
        decoded = targets.at(temperature).to_dense(targets.vocab_size)
        used = torch.isfinite(targets.topk_logprobs)
        captured, stored = ((q.gather(-1, targets.topk_ids) * used).sum(-1) for q in (p, decoded))
        terms = torch.where(p > 0, p * (log_p.nan_to_num(neginf=0.0) - decoded.log()), 0.0)
        uniform = 1 / targets.vocab_size
        cosine = torch.nn.functional.cosine_similarity(uniform - p, uniform - decoded, dim=-1)
        columns += [captured, (p - decoded).abs().sum(-1) / 2, terms.sum(-1).clamp_min(0), cosine]
        columns.append((captured - stored).abs())
    return torch.stack(columns, -1)


def widened(rows: np.ndarray) -> np.ndarray:
    """(F, NUM_MEASURES) of a shard's measures; NaN where it was written before there was one."""
    if rows.shape[1] == NUM_MEASURES:
        return rows
    table = rows.reshape(len(rows), len(TEMPERATURES), -1)
    missing = len(MEASURES) - table.shape[-1]
    wide = np.pad(table, ((0, 0), (0, 0), (0, missing)), constant_values=np.nan)
    return wide.reshape(len(rows), NUM_MEASURES)


def require_numbers(rows: np.ndarray) -> None:
    """Raise CacheError where rows of `measure_rows` are NaN: their targets are no distribution."""
    spoilt = np.isnan(rows).any(-1)
    if spoilt.any():
        raise CacheError(
            f"{int(spoilt.sum())} of {len(rows)} sampled rows cannot be decoded again (NaN). "
            "Give another --tail, or --dtype fp32."
        )


def summarise(
    rows: np.ndarray, temperatures: Sequence[float] = TEMPERATURES
) -> tuple[Fidelity, ...]:
    """Means over the rows of `measure_rows`, one a temperature; none without rows."""
    if not len(rows):
        return ()
    table = rows.astype(np.float64).reshape(len(rows), len(temperatures), len(MEASURES))
    means = table.mean(0)
    mass_errors = np.nan_to_num(table[:, :, 4], nan=-1.0).max(0)
    return tuple(
        Fidelity(
            temperature=temperature,
            num_rows=len(rows),
            captured=float(means[i, 0]),
            total_variation=float(means[i, 1]),
            total_variation_p99=float(np.quantile(table[:, i, 1], 0.99)),
            kl=float(means[i, 2]),
            gradient_cosine=float(means[i, 3]),
            mass_error=float(mass_errors[i]) if mass_errors[i] >= 0 else None,
        )
        for i, temperature in enumerate(temperatures)
    )
