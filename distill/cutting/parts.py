"""The parts of a block that can be narrowed, found by the names that families give them.

D width of the residual stream, I of the feed-forward network, H heads, G heads of keys and values.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distill.errors import DistillError
from distill.learning.blocks import blocks_of

_FEED_FORWARDS = (
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Mistral, Qwen2, Qwen3, Gemma
    (("c_fc",), "c_proj"),  # GPT-2, StarCoder2
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX
)
_ATTENTION = (("q_proj", "k_proj", "v_proj"), "o_proj")  # Llama, Mistral, Qwen, Gemma, StarCoder2
_WIDTH_FIELDS = ("intermediate_size", "n_inner")


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Linear layers into a row of units, and the one that puts these into the residual stream."""

    inputs: tuple[Any, ...]
    output: Any

    @property
    def num_units(self) -> int:
        """Numbers that `output` takes: I, or H times a head's width."""
        return output_weight(self.output).shape[1]

    def keep(self, units: torch.Tensor, of_inputs: list[torch.Tensor] | None = None) -> None:
        """Leave only these units, in place.

        Args:
            of_inputs: rows of each of `inputs`, where they are not the units.
        """
        for number, layer in enumerate(self.inputs):
            rows = units if of_inputs is None else of_inputs[number]
            _keep(layer, rows, axis=int(isinstance(layer, Conv1D)))
            if layer.bias is not None:
                layer.bias = _parameter(layer.bias[rows])
        _keep(self.output, units, axis=int(isinstance(self.output, nn.Linear)))


def feed_forwards(model: PreTrainedModel) -> list[Part]:
    """The feed-forward network of each block.

    Raises:
        DistillError: a block has none that is known here, or several.
    """
    found = [_one_of(model, block, _FEED_FORWARDS, "feed-forward network") for block in _all(model)]
    width_field(model)
    return found


def attentions(model: PreTrainedModel) -> list[Part]:
    """Queries, keys, values and output of each block's attention.

    Raises:
        DistillError: a block has no attention that is known here, or one whose heads share
            weights that lie over all of them.
    """
    head = head_shape(model)[2]
    found = [_one_of(model, block, (_ATTENTION,), "attention") for block in _all(model)]
    for block, part in zip(_all(model), found, strict=True):
        own = {id(parameter) for layer in (*part.inputs, part.output) for parameter in
               layer.parameters()}  # fmt: skip
        parent = next(m for m in block.modules() if getattr(m, "o_proj", None) is part.output)
        others = [p for p in parent.parameters() if id(p) not in own]
        if any(tuple(other.shape) != (head,) for other in others):
            raise _unknown(model, "attention, whose heads have weights in common,")
    return found


def width_field(model: PreTrainedModel) -> str:
    """The configuration's name for I."""
    config = model.config.get_text_config()
    for field in _WIDTH_FIELDS:
        if hasattr(config, field) and isinstance(getattr(config, field), int | None):
            return field
    raise _unknown(model, "feed-forward width")


def head_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """H, G and a head's width."""
    config = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return num_heads, num_kv_heads, head


def output_weight(layer: Any) -> torch.Tensor:
    """(D, units) weight of a part's output."""
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def _all(model: PreTrainedModel) -> list[nn.Module]:
    return list(blocks_of(model))


def _one_of(model: PreTrainedModel, block: nn.Module, known: tuple, what: str) -> Part:
    found = []
    for module in block.modules():
        for inputs, output in known:
            layers: list[Any] = [getattr(module, name, None) for name in (*inputs, output)]
            if all(type(layer) in (nn.Linear, Conv1D) for layer in layers):
                found.append(Part(inputs=tuple(layers[:-1]), output=layers[-1]))
    if len(found) != 1:
        raise _unknown(model, what)
    return found[0]


def _unknown(model: PreTrainedModel, what: str) -> DistillError:
    return DistillError(
        f"the {what} of {type(model).__name__} is not one that can be narrowed here. Leave "
        "--feed-forward and --kv-heads out and cut layers alone, or take a teacher of another "
        "family: docs/students.md."
    )


def _keep(layer: Any, index: torch.Tensor, axis: int) -> None:
    layer.weight = _parameter(layer.weight.index_select(axis, index.to(layer.weight.device)))
    if isinstance(layer, Conv1D):
        layer.nx, layer.nf = layer.weight.shape
    else:
        layer.out_features, layer.in_features = layer.weight.shape


def _parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach().clone())
