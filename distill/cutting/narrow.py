"""A narrower model: the feed-forward neurons and attention heads that add least are taken out.

The residual stream keeps its width, so that embeddings, norms and head stay as they are. Heads go
in whole groups, one of keys and values with all queries that look at it: each query keeps the keys
that it learnt with, and the keys and values that generation has to hold shrink too.

S positions, D width of the residual stream, I of the feed-forward network, G groups of heads.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from distill.cutting.parts import (
    Part,
    attentions,
    feed_forwards,
    head_shape,
    output_weight,
    width_field,
)
from distill.cutting.passes import (
    OnMeasured,
    calls_of_blocks,
    hooked,
    probe_ids,
    read_all,
    states_after,
    states_before,
)
from distill.errors import DistillError
from distill.learning.blocks import blocks_of


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """How much each unit of each block adds to the residual stream, in no unit of its own."""

    neurons: list[torch.Tensor]
    """(I,) each; empty where they were not asked for."""
    kv_heads: list[torch.Tensor]
    """(G,) each: of a head of keys and values with its queries; empty as above."""


def measure_magnitudes(
    model: PreTrainedModel,
    texts: Sequence[torch.Tensor],
    *,
    neurons: bool,
    kv_heads: bool,
    on_measured: OnMeasured = lambda done, total: None,
) -> Magnitudes:
    """Sum over tokens of the norm of what each unit adds to the residual stream.

    Of a neuron that is its activation's magnitude times the norm of its column of the output
    weights; of a head, the norm of its output after the output weights. Muralidharan et al. take
    the activations alone; with the weights, a unit that nothing listens to counts for nothing.

    Args:
        texts: (S,) int64 token ids each.

    Raises:
        DistillError: as `feed_forwards` and `attentions`.

    Source: Muralidharan et al. 2024 (Minitron), section 2.2; the product with the weights is
    that of Sun et al. 2024 (Wanda), equation 1.
    """
    num_groups = head_shape(model)[1]
    wanted: list[tuple[list[Part], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = []
    if neurons:
        wanted.append((feed_forwards(model), _of_neurons))
    if kv_heads:
        wanted.append((attentions(model), partial(_of_groups, num_groups=num_groups)))
    sums = [[torch.zeros(())] * len(parts) for parts, _ in wanted]
    hooks = []
    for (parts, score), totals in zip(wanted, sums, strict=True):
        for number, part in enumerate(parts):

            def add(layer, given, number=number, totals=totals, score=score) -> None:
                weight = output_weight(layer).float()
                totals[number] = totals[number] + score(given[0][0].float(), weight).double().cpu()

            hooks.append(part.output.register_forward_pre_hook(add))
    with hooked(hooks):
        read_all(model, texts, on_measured)
    found = iter(sums)
    return Magnitudes(
        neurons=next(found) if neurons else [], kv_heads=next(found) if kv_heads else []
    )


def require_widths(
    model: PreTrainedModel, *, num_neurons: int | None = None, num_kv_heads: int | None = None
) -> None:
    """Raise DistillError unless a model's blocks can be made so narrow; nothing is measured."""
    asked = []
    if num_neurons is not None:
        has = min(part.num_units for part in feed_forwards(model))
        asked.append((num_neurons, has, "neurons of a feed-forward network"))
    if num_kv_heads is not None:
        attentions(model)
        asked.append((num_kv_heads, head_shape(model)[1], "heads of keys and values"))
    for number, has, what in asked:
        if not 1 <= number <= has:
            raise DistillError(
                f"{number} {what} were asked for, but the teacher has {has}. Give a number from 1 "
                f"to {has}."
            )
    config = copy.deepcopy(model.config)
    _set_widths(model, config.get_text_config(), num_neurons, num_kv_heads)
    _read_back(model, config)


def largest(magnitudes: Sequence[torch.Tensor], num_kept: int) -> list[list[int]]:
    """The units of each block that are largest, rising; of equal ones the first."""
    return [
        sorted(one.argsort(descending=True, stable=True)[:num_kept].tolist()) for one in magnitudes
    ]


def narrow(
    model: PreTrainedModel,
    *,
    neurons: Sequence[Sequence[int]] | None = None,
    kv_heads: Sequence[Sequence[int]] | None = None,
) -> None:
    """Leave only these units in each block, in place, and make the configuration say so.

    Each block then computes what it did with the others silent, which is checked: block by block,
    since a model that was cut deep can make much of the last bits.

    Args:
        neurons: of each block, as many of each; None: all.
        kv_heads: of each block, heads of keys and values, as many of each; None: all.

    Raises:
        DistillError: the model is of a family whose parts are not known here, or that cannot be
            so narrow.
    """
    num_heads, num_groups, head = head_shape(model)
    per_group = num_heads // num_groups
    changes: list[tuple[Part, torch.Tensor, list[torch.Tensor] | None]] = []
    for part, kept in zip(feed_forwards(model) if neurons else [], neurons or [], strict=True):
        changes.append((part, torch.tensor(kept), None))
    for part, kept in zip(attentions(model) if kv_heads else [], kv_heads or [], strict=True):
        queries = _columns(kept, per_group * head)
        keys = _columns(kept, head)
        changes.append((part, queries, [queries, keys, keys]))
    with _only([(part, units) for part, units, _ in changes]):
        calls = calls_of_blocks(model, probe_ids(model))
    for part, units, of_inputs in changes:
        part.keep(units, of_inputs)
    _set_widths(
        model,
        model.config.get_text_config(),
        len(neurons[0]) if neurons else None,
        len(kv_heads[0]) if kv_heads else None,
    )
    shapes = [
        {name: one.shape for name, one in some.named_parameters()}
        for some in (model, _read_back(model, model.config))
    ]
    if shapes[0] != shapes[1]:
        raise _cannot(model, "its configuration has no place for such a width")
    for block, (args, kwargs, expected) in zip(blocks_of(model), calls, strict=True):
        with torch.inference_mode():
            found = states_after(block(*args, **kwargs)).double()
        added = expected.double() - states_before(args, kwargs).double()
        half = expected.dtype in (torch.bfloat16, torch.float16)
        if not (found - expected.double()).norm() <= (5e-2 if half else 1e-3) * added.norm():
            raise _cannot(model, "a block does not compute what it did with other units silent")


def _of_neurons(given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(I,) from activations (S, I) and weights (D, I)."""
    return given.abs().sum(0) * weight.norm(dim=0)


def _of_groups(given: torch.Tensor, weight: torch.Tensor, num_groups: int) -> torch.Tensor:
    """(G,) from outputs of heads (S, G x columns) and weights (D, G x columns)."""
    parts = zip(given.chunk(num_groups, -1), weight.chunk(num_groups, -1), strict=True)
    return torch.stack([(own @ columns.T).norm(dim=-1).sum() for own, columns in parts])


def _columns(groups: Sequence[int], width: int) -> torch.Tensor:
    """Numbers of the columns of some groups, each `width` columns wide."""
    return torch.cat([torch.arange(group * width, (group + 1) * width) for group in groups])


@contextmanager
def _only(kept: Sequence[tuple[Part, torch.Tensor]]) -> Iterator[None]:
    """Every other unit of some parts is silent, for the block of the `with` statement."""
    hooks = []
    for part, units in kept:
        heard = torch.zeros(part.num_units, dtype=torch.bool)
        heard[units] = True
        hooks.append(
            part.output.register_forward_pre_hook(
                lambda layer, given, heard=heard: given[0] * heard.to(given[0])
            )
        )
    with hooked(hooks):
        yield


def _set_widths(
    model: PreTrainedModel, config: Any, num_neurons: int | None, num_kv_heads: int | None
) -> None:
    """Write numbers into a model's configuration, or a copy of it; None: as they are."""
    num_heads, num_groups, head = head_shape(model)
    if num_neurons is not None:
        setattr(config, width_field(model), num_neurons)
    if num_kv_heads is not None:
        config.num_attention_heads = num_heads // num_groups * num_kv_heads
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = num_kv_heads
        config.head_dim = head  # else many families divide D by the number of heads


def _read_back(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """The model without weights that a configuration makes once it was saved."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(type(config).from_dict(config.to_dict()))
    except Exception as error:  # each family checks its configuration in its own way
        raise _cannot(model, f"{type(error).__name__}: {error}") from error


def _cannot(model: PreTrainedModel, why: str) -> DistillError:
    return DistillError(
        f"{type(model).__name__} cannot be made as narrow as asked: {why}. Choose other numbers, "
        "or cut layers alone."
    )
