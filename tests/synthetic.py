"""Made-up logits, the soft targets a shard would hold of them, and those as a dense matrix."""

import torch

from cache.soft_targets import SoftTargets
from cache.tail_mass import decode_log_mass
from cache.targets import compute_targets


def random_logits(num_rows: int, vocab_size: int, spread: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * spread


def to_soft_targets(logits: torch.Tensor, top_k: int, tail: str = "mass") -> SoftTargets:
    gold = torch.zeros(len(logits), dtype=torch.int64)
    rows = compute_targets(logits, gold, top_k)
    return SoftTargets(
        vocab_size=logits.shape[-1],
        topk_ids=rows.topk_ids,
        topk_logprobs=rows.topk_logprobs.float(),
        tail_log_mass=decode_log_mass(rows.tail_log_mass) if tail == "mass" else None,
    )


def dense(targets: SoftTargets, temperature: float) -> torch.Tensor:
    distribution = targets.at(temperature)
    probs = distribution.rest_prob.unsqueeze(-1).repeat(1, targets.vocab_size)
    return probs.scatter(-1, distribution.ids, distribution.probs)
