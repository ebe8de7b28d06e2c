"""A model that is loaded when it is first needed, which may be never."""

import gc
from collections.abc import Callable
from typing import Any

import torch


class ModelOnDemand:
    """Model and tokenizer, loaded by the first call and let go by `close`."""

    def __init__(self, load: Callable[[], tuple[Any, Any]], device: torch.device):
        """Remember how to load; nothing is loaded yet."""
        self._load = load
        self._device = device
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self) -> tuple[Any, Any]:
        """Model and tokenizer.

        Raises: whatever loading raises.
        """
        if self._loaded is None:
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            self._loaded = self._load()
        return self._loaded

    @property
    def peak_memory_bytes(self) -> int | None:
        """Most the CUDA device has held since loading; None elsewhere, or where not loaded."""
        if self._loaded is None or self._device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self._device)

    def close(self) -> None:
        """Let the model go and free its memory."""
        if self._loaded is None:
            return
        self._loaded = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
