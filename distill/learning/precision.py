"""Which arithmetic a run uses, and the Accelerator that carries it."""

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)

from cache.machine.precision import resolve_precision
from distill.errors import DistillError

FOREIGN_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
"""Variables with which `accelerate launch` asks for what splits a student in ways of its own."""


def start_accelerator(precision: str) -> Accelerator:
    """An Accelerator for one run: devices, processes and mixed precision.

    A process may train several students one after another, each with its own precision;
    accelerate keeps one precision a process, so the one of the run before is dropped. What the
    environment says of precision, accumulation and compiling (`accelerate launch` writes it
    there) counts for nothing: that is the recipe's.

    Args:
        precision: as in a recipe.

    Raises:
        DistillError: the device cannot compute in that precision, or the environment asks for
            DeepSpeed, FSDP or the like.
    """
    _require_plain_launch()
    device = process_state().device
    _require_loss_scaling(precision, device)
    resolved = resolve_precision(precision, device)
    AcceleratorState._reset_state()
    # A student's buffers are constants, and its gradients need not be held twice.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        cpu=_on_cpu(),
        mixed_precision="no" if resolved == "fp32" else resolved,
        # Both would be read from the environment where they are not given.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_plugin=TorchDynamoPlugin(backend="no"),
        kwargs_handlers=[parallel],
    )


def process_state() -> PartialState:
    """Which of the processes that train together this one is."""
    # Without being told that it is on CPUs, accelerate takes several processes for as many runs.
    return PartialState(cpu=_on_cpu())


def _on_cpu() -> bool:
    return not torch.accelerator.is_available()


def _require_plain_launch() -> None:
    for variable, engine in FOREIGN_ENGINES.items():
        if os.environ.get(variable, "").lower() == "true":
            raise DistillError(
                f"{variable} asks for {engine}, but a student is trained whole in every process. "
                f"Unset {variable}, or leave {engine} out of accelerate's configuration."
            )


def _require_loss_scaling(precision: str, device: torch.device) -> None:
    if precision == "fp16" and device.type not in ("cuda", "xpu"):
        raise DistillError(
            f"precision is fp16, but the device is {device.type}, where fp16 is slow and has no "
            "loss scaling. Use precision: auto (or fp32) in the recipe, or a GPU."
        )
