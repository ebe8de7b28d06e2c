"""Logprobs in one byte: fine near 0, where probability is, and coarse far from it.

Code c stands for -b (exp(a c) - 1) nats. The rounding error of a logprob l is at most
a (b + |l|) / 2: 0.0027 nats at 0, 0.05 at -5, and never more than 0.9 % beyond that of -b.
Codes of a row in descending order are stored as differences, which HDF5's filter packs well.
"""

import math
from functools import lru_cache

import torch

LOWEST_NATS = 40.0
OFFSET_NATS = 0.3
GROWTH = math.log1p(LOWEST_NATS / OFFSET_NATS) / 254
EMPTY = 255
"""Code of -inf."""


def encode_logprobs(logprobs: torch.Tensor) -> torch.Tensor:
    """Codes 0 to 255 (held in int64) of logprobs in nats; below -40 nats all are code 254."""
    magnitude = (-logprobs).clamp(0, LOWEST_NATS)
    codes = (torch.log1p(magnitude / OFFSET_NATS) / GROWTH).round().long()
    return torch.where(torch.isneginf(logprobs), EMPTY, codes)


def decode_logprobs(codes: torch.Tensor) -> torch.Tensor:
    """Nats, fp32, of codes of any integer dtype."""
    return _table(codes.device)[codes.long()]


@lru_cache
def _table(device: torch.device) -> torch.Tensor:
    """(256,) nats of every code."""
    logprobs = -OFFSET_NATS * torch.expm1(torch.arange(256, device=device) * GROWTH)
    logprobs[EMPTY] = -torch.inf
    return logprobs


def error_bound(logprobs: torch.Tensor) -> torch.Tensor:
    """Largest rounding error at these logprobs above -40 nats, in nats."""
    return (torch.expm1(torch.tensor(GROWTH / 2)) * (OFFSET_NATS - logprobs)).abs()
