"""What a student learns from: the teacher's distribution, read back at any temperature.

N rows, V vocabulary, K cached entries a row, J sparse entries a row, M nodes of the tail mass.
"""

from dataclasses import dataclass, replace

import torch

from cache.errors import CacheError
from cache.tail_mass import MAX_TEMPERATURE, MIN_TEMPERATURE, interpolate_log_mass


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetDistribution:
    """p_T of N rows: some tokens by name, and an even share for each of the others."""

    ids: torch.Tensor
    """(N, J) int64, distinct within a row."""
    probs: torch.Tensor
    """(N, J) fp32."""
    rest_prob: torch.Tensor
    """(N,) fp32: probability of each single token that is not in `ids`."""
    neg_entropy: torch.Tensor
    """(N,) fp32: Σ_j p_j log p_j over the whole vocabulary, in nats."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """Soft targets of N rows, free of temperature until `at` is called."""

    vocab_size: int
    topk_ids: torch.Tensor
    """(N, K) int64."""
    topk_logprobs: torch.Tensor
    """(N, K) fp32, nats at T = 1."""
    tail_log_mass: torch.Tensor | None
    """(N, M) fp32, nats at the nodes of `cache.tail_mass`; None renormalises the top-k."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.topk_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SoftTargets":
        """The same targets on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def select(self, rows: torch.Tensor) -> "SoftTargets":
        """The rows of a (N,) bool mask or of an index tensor, in its order."""
        return self._map(lambda tensor: tensor[rows])

    def at(self, temperature: float) -> TargetDistribution:
        """The teacher's distribution softened by `temperature`.

        With β = 1/T: p_i ∝ exp(β · l_i) for the top-k, and the tail holds exactly the mass
        that the full softmax gives it, spread evenly over its V - K tokens.

        Raises:
            CacheError: the temperature is outside of what the stored tail mass covers.
        """
        require_temperature(temperature)
        scaled = self.topk_logprobs / temperature  # (N, K)
        num_rest = self.vocab_size - scaled.shape[-1]
        if self.tail_log_mass is None or num_rest == 0:
            logprobs = scaled.log_softmax(-1)
            probs = logprobs.exp()
            neg_entropy = _plogp(probs, logprobs)
            rest_prob = torch.zeros_like(neg_entropy)
        else:
            tail = interpolate_log_mass(self.tail_log_mass, temperature)  # (N,)
            joint = torch.cat([scaled, tail.unsqueeze(-1)], -1).log_softmax(-1)
            logprobs, tail_logprob = joint[:, :-1], joint[:, -1]
            probs = logprobs.exp()
            rest_prob = tail_logprob.exp() / num_rest
            neg_entropy = _plogp(probs, logprobs) + torch.special.xlogy(
                tail_logprob.exp(), rest_prob
            )
        return TargetDistribution(
            ids=self.topk_ids, probs=probs, rest_prob=rest_prob, neg_entropy=neg_entropy
        )

    def _map(self, change) -> "SoftTargets":
        tail = None if self.tail_log_mass is None else change(self.tail_log_mass)
        return replace(
            self,
            topk_ids=change(self.topk_ids),
            topk_logprobs=change(self.topk_logprobs),
            tail_log_mass=tail,
        )


def require_temperature(temperature: float) -> None:
    """Raise CacheError unless the stored tail mass covers this temperature."""
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise CacheError(
            f"temperature is {temperature}; a cache knows its tail's mass for temperatures from "
            f"{MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}. Choose one in that range."
        )


def _plogp(probs: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """(N,) Σ p log p, where p = 0 adds nothing."""
    return (probs * logprobs.masked_fill(probs == 0, 0.0)).sum(-1)
