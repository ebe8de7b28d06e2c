"""What a student learns from: the teacher's distribution, read back at any temperature.

N rows, V vocabulary, K cached entries a row.
"""

from dataclasses import dataclass, replace

import torch

from cache.errors import CacheError
from cache.targets.format import MAX_TEMPERATURE, MIN_TEMPERATURE
from cache.targets.tails import Tail, TargetDistribution


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """Soft targets of N rows, free of temperature until `at` is called."""

    vocab_size: int
    topk_ids: torch.Tensor
    """(N, K) int64; entries a row does not use repeat its first id."""
    topk_logprobs: torch.Tensor
    """(N, K) fp32, nats at T = 1; -inf in entries a row does not use."""
    tail: Tail
    """What is known of the tokens outside the top-k."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.topk_ids)

    @property
    def likeliest_ids(self) -> torch.Tensor:
        """(N,) int64: the teacher's most likely token."""
        return self.topk_ids.gather(-1, self.topk_logprobs.argmax(-1, keepdim=True)).squeeze(-1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SoftTargets":
        """The same targets on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "SoftTargets":
        """The same targets in memory from which a GPU copies while others compute."""
        return self._map(torch.Tensor.pin_memory)

    def select(self, rows: torch.Tensor) -> "SoftTargets":
        """The rows of a (N,) bool mask or of an index tensor, in its order."""
        return self._map(lambda tensor: tensor[rows])

    def at(self, temperature: float) -> TargetDistribution:
        """The teacher's distribution softened by `temperature`.

        Raises:
            CacheError: the temperature is outside of what the stored tail mass covers.
        """
        require_temperature(temperature)
        return self.tail.at(self.topk_ids, self.topk_logprobs, 1 / temperature)

    def _map(self, change) -> "SoftTargets":
        return replace(
            self,
            topk_ids=change(self.topk_ids),
            topk_logprobs=change(self.topk_logprobs),
            tail=self.tail.map(change),
        )


def require_temperature(temperature: float) -> None:
    """Raise CacheError unless the stored tail mass covers this temperature."""
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise CacheError(
            f"temperature is {temperature}; a cache knows its tail's mass for temperatures from "
            f"{MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}. Choose one in that range."
        )
