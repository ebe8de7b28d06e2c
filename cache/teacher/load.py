"""Loading a teacher and its tokenizer: hub ids, folders and .gguf files."""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from cache.errors import CacheError
from cache.machine.durable import json_sha256


def num_token_ids(tokenizer) -> int:
    """Ids from 0 to the highest that a tokenizer knows, special and added tokens among them."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_sha256(tokenizer) -> str:
    """Hash of the whole vocabulary, the merges and pre-tokenisation, and the special ids."""
    content: dict[str, Any] = {
        "vocab": tokenizer.get_vocab(),
        "eos": tokenizer.eos_token_id,
        "bos": tokenizer.bos_token_id,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        content |= {k: state.get(k) for k in ("model", "normalizer", "pre_tokenizer")}
    return json_sha256(content)


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
