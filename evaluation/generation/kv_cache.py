"""Key-value caches whose rows come and go, so that a batch never waits for its longest row.

B rows, H heads, S positions (padded on the left), D width of a head. Keys and values of a layer
are (B, H, S, D). A column to the left of a row's first token is masked, so whatever stands there
has no effect, and columns may be added or removed as long as all layers agree.
"""

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def holds_every_position(cache: Any) -> bool:
    """Whether a model that made this cache also runs on a `DynamicCache` of all positions.

    A sliding window may become one: the model's mask keeps to the window. Recurrent states and
    quantised positions may not.
    """
    layers = cache.layers if isinstance(cache, DynamicCache) else [None]
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def choose_rows(cache: Any, rows: torch.Tensor, first_column: int = 0) -> None:
    """Keep these rows, in this order, and the columns from `first_column` on."""
    for layer in cache.layers:
        layer.keys = layer.keys[rows, :, first_column:]
        layer.values = layer.values[rows, :, first_column:]


def join_rows(cache: Any, other: Any) -> None:
    """Append the rows of `other`; the narrower of the two is padded on the left."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = join_left_padded(layer.keys, more.keys, -2)
        layer.values = join_left_padded(layer.values, more.values, -2)


def join_left_padded(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Both tensors along the first axis; in `dim` the shorter gets zeros before it."""
    size = max(one.shape[dim], other.shape[dim])
    return torch.cat([_pad_left(one, size, dim), _pad_left(other, size, dim)])


def _pad_left(tensor: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    missing = size - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)
