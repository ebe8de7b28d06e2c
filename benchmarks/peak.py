"""What the device does at most: a large matrix product, measured."""

import time
from functools import cache

import torch


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a square matrix product, best of five; 2 n³ are counted."""
    size = 8192 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        synchronise()
        started = time.perf_counter()
        left @ left
        synchronise()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def share_of_peak(flops: float, seconds: float, device: torch.device, dtype: torch.dtype) -> str:
    """`FLOPs/s (share of a matrix product's)` in words."""
    rate = flops / seconds
    return f"{rate / 1e12:.2f} TFLOP/s ({rate / peak_flops(device, dtype):.0%} of a product's)"
