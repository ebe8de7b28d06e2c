"""A model's output head as a linear map: the weights that its product with hidden states has.

D width, V vocabulary.
"""

from typing import Any

import torch
from torch import nn

from cache.errors import CacheError

_UNIT = 1024.0
"""What a unit vector is multiplied by when a head is asked, so that its bias rounds nothing away;
a power of 2, so that no bit of the weights changes."""
_ASKED_ROWS = 256


@torch.inference_mode()
def linear_of(head: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(V, D) weight and (V,) bias of a head, in its dtype.

    Those of a plain layer are read. Any other (with an adapter, quantised, off the device) is
    asked for its products with unit vectors: what it calls its weight may be a part of them.

    Raises:
        CacheError: it is not linear.
    """
    if type(head) is nn.Linear and not head.weight.is_meta:
        return head.weight.detach(), None if head.bias is None else head.bias.detach()
    width, like = head_width(head), head.weight
    dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    device = torch.device("cpu") if like.is_meta else like.device
    units = torch.eye(width, dtype=dtype, device=device)
    bias = head(torch.zeros(1, width, dtype=dtype, device=device))[0]
    columns = [head(some * _UNIT) - bias for some in units.split(_ASKED_ROWS)]
    weight = (torch.cat(columns) / _UNIT).T.contiguous()
    rows = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(units)
    expected, found = head(rows).float(), nn.functional.linear(rows, weight, bias).float()
    exact = dtype not in (torch.bfloat16, torch.float16)
    if not (found - expected).abs().max() <= (1e-4 if exact else 2e-2) * expected.abs().max():
        raise CacheError(
            f"The output head ({type(head).__name__}) is not linear, so it cannot be kept beside "
            "a cache. Give --tail mass, or merge what was put on it into the model."
        )
    return weight, bias if bias.any() else None


def head_width(head: Any) -> int:
    """D."""
    return int(getattr(head, "in_features", None) or head.weight.shape[1])


def head_rows(head: Any) -> int:
    """V."""
    return int(getattr(head, "out_features", None) or head.weight.shape[0])
