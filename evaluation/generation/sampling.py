"""Logits to tokens. A row's random numbers are its own, so its neighbours do not matter.

B batch, V vocabulary.
"""

import hashlib

import torch

from evaluation.config import GenerationSettings

# Sorting a few tokens is much cheaper than the whole vocabulary, and nearly always enough.
NUCLEUS_GUESS = 256


def row_uniforms(
    settings: GenerationSettings, task_id: str, sample: int, steps: int
) -> torch.Tensor:
    """Random numbers in [0, 1), (steps,), from the seed, the task and the sample alone.

    They are drawn on the CPU, so that the same seed means the same numbers on every device.
    """
    if settings.temperature == 0:
        return torch.zeros(steps)
    key = f"{settings.seed}|{task_id}|{sample}".encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:7], "big")
    return torch.rand(steps, generator=torch.Generator().manual_seed(seed))


def choose(
    logits: torch.Tensor, settings: GenerationSettings, uniforms: torch.Tensor
) -> torch.Tensor:
    """Next token ids (B,): the most likely, or by inverting the nucleus's cumulative sum.

    Args:
        logits: (B, V) float32.
        uniforms: (B,) in [0, 1); unused when the temperature is 0.

    Source: Holtzman et al. 2020, section 3.1 (nucleus sampling).
    """
    if settings.temperature == 0:
        return logits.argmax(-1)
    all_probs = torch.softmax(logits / settings.temperature, -1)
    for size in (NUCLEUS_GUESS, all_probs.shape[-1]):
        probs, order = all_probs.topk(min(size, all_probs.shape[-1]), dim=-1)
        cumulative = probs.cumsum(-1)
        if bool((cumulative[:, -1] >= settings.top_p).all()):
            break  # the nucleus of every row is inside
    inside = cumulative - probs < settings.top_p  # (B, V): the first token always is
    num_inside = inside.sum(-1, keepdim=True)
    mass = cumulative.gather(-1, num_inside - 1)
    rank = (cumulative <= uniforms.unsqueeze(-1) * mass).sum(-1, keepdim=True)
    return order.gather(-1, torch.minimum(rank, num_inside - 1)).squeeze(-1)
