"""The blocks of a causal language model, and the model with only some of them.

B sequences, S positions, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distill.errors import DistillError


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, in their order.

    Raises:
        DistillError: the model has no one list with as many modules as its configuration has
            layers.
    """
    return _list_of(model)[1]


def _list_of(model: PreTrainedModel) -> tuple[tuple[nn.Module, str], nn.ModuleList]:
    """Who holds the blocks and under which name, and the blocks."""
    num_layers = model.config.get_text_config().num_hidden_layers
    found = [
        ((module, name), child)
        for module in model.base_model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == num_layers
    ]
    if len(found) != 1:
        raise DistillError(
            f"{type(model).__name__} has {len(found)} lists of {num_layers} modules; which of "
            "its parts are layers is not known here. Take another teacher."
        )
    return found[0]


def keep_blocks(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave only these blocks in a model, and make its configuration that of so many.

    Lists in the configuration that have an entry a layer (which attention a layer has) lose those
    of the others. Layers that know their own number get the new one.

    Args:
        kept: numbers of blocks, rising.

    Raises:
        DistillError: no such blocks, or as `blocks_of`.
    """
    (owner, name), blocks = _list_of(model)
    require_kept(kept, len(blocks))
    config = model.config.get_text_config()
    for field, value in _per_layer(config, len(blocks)).items():
        setattr(config, field, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)
    setattr(owner, name, nn.ModuleList(blocks[i] for i in kept))
    for number, block in enumerate(getattr(owner, name)):
        _renumber(block, number)


@contextmanager
def only_blocks(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """`keep_blocks` for the block of the `with` statement; everything is then as it was."""
    (owner, name), blocks = _list_of(model)
    config = model.config.get_text_config()
    before = {"num_hidden_layers": len(blocks), **_per_layer(config, len(blocks))}
    keep_blocks(model, kept)
    try:
        yield
    finally:
        setattr(owner, name, blocks)
        for field, value in before.items():
            setattr(config, field, value)
        for number, block in enumerate(blocks):
            _renumber(block, number)


def require_kept(kept: Sequence[int], num_layers: int) -> None:
    """Raise DistillError unless these are numbers of some layers, rising."""
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= num_layers:
        raise DistillError(
            f"the layers to keep are {', '.join(map(str, kept)) or 'none'}, but must be rising "
            f"numbers from 0 to {num_layers - 1}, at least one."
        )


def _per_layer(config: Any, num_layers: int) -> dict[str, list]:
    return {
        field: value
        for field, value in vars(config).items()
        if isinstance(value, list) and len(value) == num_layers
    }


def _renumber(block: nn.Module, number: int) -> None:
    for module in block.modules():
        for name in ("layer_idx", "layer_id"):
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, number)
