"""Which GPUs of a host a process may use."""

import os
from collections.abc import Mapping

from cache.machine.process import launch_number


def take_gpus() -> None:
    """Leave this process its own block of the node's GPUs, where it was launched with others.

    To be called before CUDA is initialised.
    """
    if launch_number(os.environ, "LOCAL_WORLD_SIZE", 1) < 2:
        return
    import torch

    gpus = own_gpus(os.environ, torch.cuda.device_count())
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)


def own_gpus(environment: Mapping[str, str], num_gpus: int) -> list[str]:
    """The block of GPUs of one of LOCAL_WORLD_SIZE processes; they share where there are fewer."""
    gpus = visible_gpus(environment, num_gpus)
    if not gpus:
        return []
    rank, count = (launch_number(environment, n) for n in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    size = len(gpus) // count
    return gpus[rank * size : (rank + 1) * size] if size else [gpus[rank % len(gpus)]]


def visible_gpus(environment: Mapping[str, str], num_gpus: int) -> list[str]:
    """The GPUs that a process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:num_gpus] if named else [str(gpu) for gpu in range(num_gpus)]
