"""Hidden states, heads and targets of every tail, for what is computed from them."""

from dataclasses import replace

import torch

from cache.targets.soft_targets import SoftTargets
from cache.targets.tails import LinearTail, TailMap
from tests.support.synthetic import random_logits, to_soft_targets

ROWS, WIDTH, VOCAB = 7, 5, 40


def make_targets(tail: str, rows: int = ROWS, vocab: int = VOCAB, top_k: int = 6) -> SoftTargets:
    logits = random_logits(rows, vocab, 2.0, seed=1)
    if tail == "mass of fewer tokens":
        mass = to_soft_targets(logits, top_k, "mass")
        return replace(mass, tail=replace(mass.tail, num_tokens=vocab - 7))
    if tail != "lowrank":
        return to_soft_targets(
            logits, top_k, tail, **({"tail_samples": 9} if tail == "sampled" else {})
        )
    mass = to_soft_targets(logits, top_k, "mass")
    shared = TailMap(random_logits(vocab, 3, 1.0, seed=5), random_logits(1, vocab, 1.0, seed=6)[0])
    linear = LinearTail(
        log_mass=mass.tail.log_mass,
        coefficients=random_logits(rows, 3, 1.0, seed=7),
        shared=shared,
    )
    return SoftTargets(
        vocab_size=vocab,
        topk_ids=mass.topk_ids,
        topk_logprobs=mass.topk_logprobs,
        tail=linear,
    )


def make_head(
    rows: int = ROWS, width: int = WIDTH, vocab: int = VOCAB, dtype=torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head and labels; the logits spread by about 2."""
    hidden = random_logits(rows, width, 1.0, seed=2).to(dtype).requires_grad_()
    weight = (random_logits(vocab, width, 2.0, seed=3) / width**0.5).to(dtype).requires_grad_()
    return hidden, weight, torch.arange(rows) * 3 % vocab
