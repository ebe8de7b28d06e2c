"""Which of a teacher's layers a student keeps.

B sequences, S positions, N rows, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from distill.cutting.passes import (
    OnMeasured,
    hooked,
    logits,
    read_all,
    states_after,
    states_before,
)
from distill.errors import DistillError
from distill.learning.blocks import blocks_of, only_blocks


def evenly_spaced(num_layers: int, num_kept: int) -> list[int]:
    """The first, the last, and others at even distances between them.

    Raises:
        DistillError: there are not so many layers.
    """
    require_number(num_layers, num_kept)
    if num_kept == 1:
        return [0]
    return [round(i * (num_layers - 1) / (num_kept - 1)) for i in range(num_kept)]


def block_influences(
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    on_measured: OnMeasured = lambda done, total: None,
) -> list[float]:
    """1 - mean cosine of a block's input and output, of each block over all tokens.

    Args:
        texts: (S,) int64 token ids each.

    Source: Men et al. 2024 (ShortGPT), equation 1.
    """
    blocks = blocks_of(model)
    sums, counts = [0.0] * len(blocks), [0] * len(blocks)

    def watch(number: int) -> Callable:
        def hook(block, args, kwargs, output):
            before, after = states_before(args, kwargs), states_after(output)
            cosine = torch.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[number] += float(cosine.sum())
            counts[number] += cosine.numel()

        return hook

    hooks = [
        block.register_forward_hook(watch(number), with_kwargs=True)
        for number, block in enumerate(blocks)
    ]
    with hooked(hooks):
        read_all(model, texts, on_measured)
    return [1 - total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


def by_influence(influences: Sequence[float], num_kept: int) -> list[int]:
    """The layers that change their input most.

    Raises:
        DistillError: there are not so many layers.
    """
    require_number(len(influences), num_kept)
    order = sorted(range(len(influences)), key=lambda layer: -influences[layer])
    return sorted(order[:num_kept])


def by_kl(
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    num_kept: int,
    on_measured: OnMeasured = lambda done, total: None,
) -> list[int]:
    """Layers left when the one whose loss costs least is taken out, again and again.

    What a removal costs is measured: KL(teacher ‖ what is left) at T = 1 over the texts.

    Args:
        texts: (S,) int64 token ids each; a few hundred tokens in all do.
        teacher: of `teacher_log_probs`, of the whole model.

    Raises:
        DistillError: there are not so many layers.
    """
    num_layers = len(blocks_of(model))
    require_number(num_layers, num_kept)
    kept = list(range(num_layers))
    total, done = sum(range(num_kept + 1, num_layers + 1)), 0
    while len(kept) > num_kept:
        costs = {}
        for layer in kept:
            rest = [other for other in kept if other != layer]
            with only_blocks(model, rest):
                costs[layer] = divergence(model, texts, teacher)
            done += 1
            on_measured(done, total)
        kept.remove(min(kept, key=costs.__getitem__))
    return kept


def teacher_log_probs(model: PreTrainedModel, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(S, V) fp32 of each text."""
    return [_log_probs(model, text) for text in texts]


def divergence(
    model: PreTrainedModel, texts: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
) -> float:
    """KL(teacher ‖ model) at T = 1 over texts, nats a token.

    Args:
        teacher: of `teacher_log_probs`, before the teacher was cut.
    """
    total, num_rows = 0.0, 0
    for text, expected in zip(texts, teacher, strict=True):
        found = _log_probs(model, text)
        total += float((expected.exp() * (expected - found)).sum())
        num_rows += len(expected)
    return total / num_rows


def require_number(num_layers: int, num_kept: int) -> None:
    """Raise DistillError unless that many of the layers can be kept."""
    if not 1 <= num_kept <= num_layers:
        raise DistillError(
            f"{num_kept} layers were asked for, but there are {num_layers} to choose among. "
            f"Give a number from 1 to {num_layers}."
        )


def _log_probs(model: PreTrainedModel, text: torch.Tensor) -> torch.Tensor:
    """(S, V) fp32."""
    return logits(model, text).float().log_softmax(-1)
