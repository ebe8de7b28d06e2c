"""Made-up logits, the soft targets a shard would hold of them, and those as a dense matrix."""

import torch

from cache.targets.format import TargetFormat
from cache.targets.row_codec import EncodedRows, OutputHead, RowCodec
from cache.targets.soft_targets import SoftTargets


def random_logits(num_rows: int, vocab_size: int, spread: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * spread


def encode(logits: torch.Tensor, top_k: int, tail: str = "mass", **options) -> EncodedRows:
    targets = TargetFormat(top_k=top_k, tail=tail, **options)
    gold = torch.zeros(len(logits), dtype=torch.int64)
    return RowCodec(targets, logits.shape[-1]).encode(logits, torch.empty(0), gold)


def to_soft_targets(logits: torch.Tensor, top_k: int, tail: str = "mass", **options) -> SoftTargets:
    targets = TargetFormat(top_k=top_k, tail=tail, **{"logprob_bits": 16, **options})
    gold = torch.zeros(len(logits), dtype=torch.int64)
    head = None
    if tail == "hidden":  # the hidden state is the row of logits itself
        head = OutputHead(weight=torch.eye(logits.shape[-1]), bias=torch.zeros(logits.shape[-1]))
    codec = RowCodec(targets, logits.shape[-1], head=head)
    generator = torch.Generator().manual_seed(0)
    return codec.decode(codec.encode(logits, logits, gold, generator))


def dense(targets: SoftTargets, temperature: float) -> torch.Tensor:
    return targets.at(temperature).to_dense(targets.vocab_size)
