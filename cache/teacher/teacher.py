"""The teacher: loaded once, split into a trunk and an output head.

B batch, S positions, D width, V vocabulary, N rows.
"""

import gc
import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cache.errors import CacheError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def default_device() -> torch.device:
    """CUDA or another accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def resolve_dtype(name: str) -> torch.dtype:
    """`bf16`, `fp16`, `fp32`; `auto` is bf16 on an accelerator and fp32 on the CPU.

    Raises:
        CacheError: another name.
    """
    if name == "auto":
        return torch.float32 if default_device().type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise CacheError(f"dtype is {name!r}; choose from auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def dtype_name(recorded: str) -> str:
    """The name that `resolve_dtype` takes for a dtype as an identity records it."""
    return {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}[recorded]


def load_tokenizer(model: str, revision: str | None = None):
    """The tokenizer of a hub id, a local folder or a `.gguf` file.

    Raises:
        CacheError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    folder, gguf = _source(model)
    try:
        return AutoTokenizer.from_pretrained(folder, revision=revision, **gguf)
    except Exception as error:  # transformers and the hub raise many kinds
        raise CacheError(_load_failure("tokenizer", model, error)) from error


def load_causal_lm(
    model: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = "auto",
):
    """A causal language model in eval mode.

    Args:
        model: a hub id, a local folder, or a `.gguf` file (dequantised on loading).
        device_map: as in transformers; `auto` spreads the weights over all accelerators.

    Raises:
        CacheError: it cannot be loaded, with the reason.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # a log file wants no bars
    folder, gguf = _source(model)
    options: dict[str, Any] = dict(gguf)
    if gguf:
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, revision=revision, dtype=dtype, device_map=device_map, **options
        )
    except Exception as error:
        raise CacheError(_load_failure("model", model, error)) from error
    gc.collect()  # a dequantised GGUF leaves its reader's arrays behind
    return loaded.eval()


def _source(model: str) -> tuple[str, dict[str, str]]:
    """Folder or hub id, and the extra argument that names a GGUF file."""
    if model.endswith(".gguf"):
        path = Path(model)
        if not path.is_file():
            raise CacheError(f"There is no file {path}. Give a hub id, a folder or a .gguf file.")
        return str(path.parent), {"gguf_file": path.name}
    return model, {}


def _load_failure(what: str, model: str, error: Exception) -> str:
    return (
        f"The {what} of {model} could not be loaded: {type(error).__name__}: {error}\n"
        "Check the name, the network and, for a gated model, `hf auth login`; "
        "a local folder or a .gguf file works too."
    )


class Teacher:
    """A causal LM as two steps: hidden states of a batch, then logits of any slice of rows.

    Going through the head in slices is what keeps (B, S, V) from ever existing.
    """

    def __init__(self, model, *, check: bool = True):
        """Wrap a loaded model.

        Raises:
            CacheError: the model has no separate trunk and output head, or its logits are not
                simply head(hidden), as with soft-capped or scaled logits.
        """
        head = model.get_output_embeddings()
        trunk = model.base_model
        if head is None or trunk is model:
            raise CacheError(
                f"{type(model).__name__} has no output head separate from its trunk; "
                "use a causal language model (AutoModelForCausalLM)."
            )
        self.model, self.head, self.trunk = model, head, trunk
        self.vocab_size: int = head.weight.shape[0]
        self._options = {"use_cache": False} if _accepts(trunk.forward, "use_cache") else {}
        if check:
            self._require_plain_head()

    @property
    def device(self) -> torch.device:
        """Where the trunk takes its input ids."""
        return self.model.get_input_embeddings().weight.device

    @property
    def num_parameters(self) -> int:
        """Weights, a head tied to the embedding counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def max_positions(self) -> int | None:
        """Longest input of the model, or None where its configuration does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Final hidden states (B, S, D) of right-padded ids (B, S).

        No attention mask is passed: under a causal mask, what stands right of a position
        cannot change it, so padding is harmless and the fast attention path is taken.
        """
        return self.trunk(input_ids=input_ids.to(self.device), **self._options).last_hidden_state

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V), in the model's dtype, of hidden states (N, D)."""
        return self.head(hidden.to(self.head.weight.device))

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over names, dtypes, shapes and bytes of all parameters and buffers saved.

        Taken once: a teacher's weights do not change.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(_materialised_state(self.model).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def _require_plain_head(self) -> None:
        ids = torch.arange(min(8, self.vocab_size)).unsqueeze(0)
        expected = self.model(input_ids=ids.to(self.device), **self._options).logits[0].float()
        found = self.logits(self.hidden(ids)[0]).float().to(expected.device)
        difference = (found - expected).abs().max()
        scale = expected.abs().max()
        if not torch.isfinite(expected).all() or difference <= 1e-2 * scale + 1e-4:
            return  # NaN weights are reported with the document they spoil
        raise CacheError(
            f"{type(self.model).__name__} changes its logits after the output head (by up to "
            f"{difference:.3g}, of {scale:.3g}): scaling or soft-capping. "
            "Soft targets taken before that would be wrong, so this teacher is refused."
        )


def _accepts(function: Callable, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _materialised_state(model) -> dict[str, torch.Tensor]:
    """The state dict, with the weights that device_map has offloaded brought back."""
    if any(parameter.is_meta for parameter in model.parameters()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        return get_state_dict_offloaded_model(model)
    return model.state_dict()
