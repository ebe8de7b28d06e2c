"""Which arithmetic a run uses, and the Accelerator that carries it."""

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from distill.errors import DistillError


def start_accelerator(precision: str) -> Accelerator:
    """An Accelerator for one run: devices, processes and mixed precision.

    A process may train several students one after another, each with its own precision;
    accelerate keeps one precision a process, so the one of the run before is dropped.

    Args:
        precision: as in a recipe.

    Raises:
        DistillError: the device cannot compute in that precision.
    """
    # Without being told that it is on CPUs, accelerate takes several processes for as many runs.
    on_cpu = not torch.accelerator.is_available()
    resolved = resolve_precision(precision, PartialState(cpu=on_cpu).device)
    AcceleratorState._reset_state()
    # A student's buffers are constants, and its gradients need not be held twice.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if resolved == "fp32" else resolved,
        kwargs_handlers=[parallel],
    )


def resolve_precision(precision: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`: what a recipe's precision means on a device.

    `auto` is bf16 on a GPU with bf16 units, fp16 with loss scaling on an older one, and
    fp32 elsewhere.

    Raises:
        DistillError: fp16 without a GPU.
    """
    if precision == "fp16" and device.type not in ("cuda", "xpu"):
        raise DistillError(
            f"precision is fp16, but the device is {device.type}, where fp16 is slow and has no "
            "loss scaling. Use precision: auto (or fp32) in the recipe, or a GPU."
        )
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # Emulated bf16 is counted as support by default, and slower than fp16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "xpu":
        return "bf16" if torch.xpu.is_bf16_supported() else "fp16"
    return "fp32"
