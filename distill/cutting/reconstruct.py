"""What a cut leaves, fitted by least squares to the states between the teacher's blocks.

The output weights of each feed-forward network take over what they can of the neurons and heads
that went from their block, and of the blocks that went after it. There is no gradient and no epoch:
each block is one linear system, solved with what the blocks before it, already fitted, hand on.

S positions, D width of the residual stream, I neurons of a feed-forward network.

Source: least-squares reconstruction after pruning, He et al. 2017 (Channel Pruning), section 3.1;
over blocks that went, Shopkhoev et al. 2025 (ReplaceMe), who fit D x D where this fits D x I.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.cutting.parts import Part, feed_forwards, output_weight
from distill.cutting.passes import (
    OnMeasured,
    beside_states,
    calls_of_blocks,
    hooked,
    probe_ids,
    states_after,
    states_before,
)
from distill.errors import DistillError
from distill.learning.blocks import blocks_of

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""What is tried, times the mean square of a neuron: how dear it is to leave the weights."""
HELD_OUT = 10
"""Each tenth text chooses among them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """What the blocks of a teacher are given on one text."""

    states: list[torch.Tensor]
    """(S, D) before each block, and after the last."""
    others: list[tuple[tuple, dict[str, Any]]]
    """What else each block is given: positions, masks."""


@torch.inference_mode()
def require_fit(model: PreTrainedModel, texts: Sequence[torch.Tensor]) -> None:
    """Raise DistillError unless cuts of a teacher can be fitted on texts; they are not read.

    It takes two texts, and feed-forward networks of which the output is added as it is, neither
    normed nor scaled.
    """
    calls = calls_of_blocks(model, probe_ids(model))
    for block, part, call in zip(blocks_of(model), feed_forwards(model), calls, strict=True):
        args, kwargs, expected = call
        more = states_before(args, kwargs)
        hook = part.output.register_forward_hook(
            lambda layer, given, output, more=more: output + more
        )
        with hooked([hook]):
            found = states_after(block(*args, **kwargs))
        if not (found - expected - more).norm() <= 0.05 * more.norm():
            raise DistillError(
                f"{type(model).__name__} norms or scales what its feed-forward networks give, and "
                "such a model is not fitted here. Leave --reconstruct out."
            )
    if len(texts) < 2:
        raise DistillError(
            f"{len(texts)} documents are left to fit on besides those that are measured, but it "
            "takes two or more. Give more documents, or a smaller --num-tokens."
        )


@torch.inference_mode()
def flows_of(
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    on_measured: OnMeasured = lambda done, total: None,
) -> list[Flow]:
    """Read texts (S,) with a teacher that is still whole."""
    flows = []
    for done, text in enumerate(texts, 1):
        calls = calls_of_blocks(model, text)
        states = [states_before(args, kwargs)[0] for args, kwargs, _ in calls]
        others = [beside_states(args, kwargs) for args, kwargs, _ in calls]
        flows.append(Flow(states=[*states, calls[-1][2][0]], others=others))
        on_measured(done, len(texts))
    return flows


@torch.inference_mode()
def reconstruct(
    model: PreTrainedModel,
    flows: Sequence[Flow],
    kept: Sequence[int],
    on_measured: OnMeasured = lambda done, total: None,
) -> None:
    """Fit a model that was cut to the teacher it was cut from, in place.

    After each block, but those that need nothing, the states shall be those that the teacher has
    where its next kept block begins. Each row is divided by the norm of the teacher's state, as the
    norm that reads it does.

    Args:
        flows: of `flows_of`, of the whole teacher.
        kept: which of its blocks the model still has.
    """
    states = [flow.states[0] for flow in flows]
    ends = [*kept[1:], len(flows[0].others)]
    blocks = zip(blocks_of(model), feed_forwards(model), kept, ends, strict=True)
    for done, (block, part, own, end) in enumerate(blocks, 1):
        read = [
            _through(block, part, state, flow.others[own])
            for state, flow in zip(states, flows, strict=True)
        ]
        states = [output for output, _ in read]
        wanted = [flow.states[end] for flow in flows]
        if any(not torch.equal(*pair) for pair in zip(states, wanted, strict=True)):
            change = _fit(part, read, wanted)
            states = [
                output + (neurons.to(change.dtype) @ change.T).to(output.dtype)
                for output, neurons in read
            ]
        on_measured(done, len(kept))


def _fit(
    part: Part, read: Sequence[tuple[torch.Tensor, torch.Tensor]], wanted: Sequence[torch.Tensor]
) -> torch.Tensor:
    """(D, I) that is added to a part's output weights, of which the part has them now.

    Zeros where no ridge brings texts that were not fitted nearer to what is wanted.
    """
    weight = output_weight(part.output)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    num_units = weight.shape[1]
    gram = torch.zeros(num_units, num_units, dtype=dtype, device=weight.device)
    cross = torch.zeros(num_units, weight.shape[0], dtype=dtype, device=weight.device)
    held = []
    for number, ((output, neurons), target) in enumerate(zip(read, wanted, strict=True)):
        scale = target.to(dtype).norm(dim=-1, keepdim=True).clamp_min(1e-6)
        missing = (target.to(dtype) - output.to(dtype)) / scale
        neurons = neurons.to(dtype) / scale
        if number % HELD_OUT:
            gram.addmm_(neurons.T, neurons)
            cross.addmm_(neurons.T, missing)
        else:
            held.append((neurons, missing))
    diagonal = gram.diagonal()
    before, unit = diagonal.clone(), diagonal.mean().clamp_min(1e-12)
    best = torch.zeros_like(cross)
    least = sum(float(missing.square().sum()) for _, missing in held)
    for ridge in RIDGES:
        diagonal.copy_(before + ridge * unit)
        change = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
        error = sum(float((missing - neurons @ change).square().sum()) for neurons, missing in held)
        if error < least:
            best, least = change, error
    old = weight.to(dtype, copy=True)
    weight.copy_(old + best.T)
    return weight.to(dtype) - old


def _through(
    block: nn.Module, part: Part, state: torch.Tensor, others: tuple[tuple, dict[str, Any]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, D) that a block makes of a state (S, D), and (S, I) that its neurons say."""
    neurons: list[torch.Tensor] = []
    watch = part.output.register_forward_pre_hook(lambda layer, given: neurons.append(given[0][0]))
    args, kwargs = others
    with hooked([watch]):
        output = states_after(block(state.unsqueeze(0), *args, **kwargs))[0]
    return output, neurons[0]
