"""In which arithmetic a model runs: one meaning of `auto` for teachers, students and scores."""

import warnings

import torch

from cache.errors import CacheWarning

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def default_device() -> torch.device:
    """CUDA or another accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def resolve_precision(precision: str, device: torch.device | None = None) -> str:
    """`bf16`, `fp16` or `fp32`: what one of `cache.machine.choices.PRECISIONS` means on a device.

    `auto` is bf16 on a GPU with bf16 units, fp16 on an older one (T4, V100), fp32 elsewhere. Half
    precision on a CPU that has to emulate it is a CacheWarning.

    Args:
        device: None: the default one.
    """
    device = device or default_device()
    if precision != "auto":
        if precision != "fp32" and device.type == "cpu":
            _warn_where_emulated(precision)
        return precision
    if device.type == "cuda":
        # Emulated bf16 is counted as support by default, and slower than fp16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "xpu":
        return "bf16" if torch.xpu.is_bf16_supported() else "fp16"
    return "fp32"


def _warn_where_emulated(precision: str) -> None:
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        warnings.warn(
            f"This CPU has no instructions for {precision} (AVX2, and no AVX-512): products of "
            "matrices take several times as long as in fp32. auto is fp32 here.",
            CacheWarning,
            stacklevel=3,
        )


def resolve_dtype(precision: str, device: torch.device | None = None) -> torch.dtype:
    """The dtype of `resolve_precision`."""
    return DTYPES[resolve_precision(precision, device)]


def dtype_name(dtype: torch.dtype) -> str:
    """As identities and reports write it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def precision_named(dtype: str) -> str:
    """The precision of a dtype that `dtype_name` wrote.

    Raises:
        KeyError: no precision has it.
    """
    return {dtype_name(known): name for name, known in DTYPES.items()}[dtype]
