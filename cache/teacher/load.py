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
    """A causal language model in eval mode, all of whose weights were read.

    Args:
        model: a hub id, a local folder, or a `.gguf` file (dequantised on loading); of an adapter
            too, which is put on the model that it names.
        device_map: as in transformers; `auto` spreads the weights over all accelerators.

    Raises:
        CacheError: it cannot be loaded, with the reason; or the checkpoint lacks weights.
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
    base = None if gguf else _base_of_adapter(folder, revision)
    if base is not None:
        options["revision"] = None
    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            base or folder,
            **{"revision": revision, **options},
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
        )
        loaded, report = loading
        lacking = set(report["missing_keys"])
        if base is not None:
            found = loaded.load_adapter(folder, adapter_kwargs={"revision": revision})
            lacking |= set(found.missing_keys)
    except Exception as error:
        raise CacheError(_load_failure("model", model, error)) from error
    if lacking:
        raise CacheError(
            f"{model} lacks {len(lacking)} of the weights of a {type(loaded).__name__} "
            f"({', '.join(sorted(lacking)[:3])}), which would be random numbers. "
            "Take a whole checkpoint of a causal language model."
        )
    gc.collect()  # a dequantised GGUF leaves its reader's arrays behind
    return loaded.eval()


def head_shape(model: str, revision: str | None = None) -> tuple[int, int]:
    """Rows and width of a model's output head, from its configuration alone.

    Raises:
        CacheError: the configuration cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, gguf = _source(model)
    base = None if gguf else _base_of_adapter(folder, revision)
    try:
        config = AutoConfig.from_pretrained(
            base or folder, revision=None if base else revision, **gguf
        )
        with torch.device("meta"):
            head = AutoModelForCausalLM.from_config(config).get_output_embeddings()
    except Exception as error:
        raise CacheError(_load_failure("configuration", model, error)) from error
    rows, width = head.weight.shape
    return int(rows), int(width)


def _source(model: str) -> tuple[str, dict[str, str]]:
    """Folder or hub id, and the extra argument that names a GGUF file."""
    if model.endswith(".gguf"):
        path = Path(model)
        if not path.is_file():
            raise CacheError(f"There is no file {path}. Give a hub id, a folder or a .gguf file.")
        return str(path.parent), {"gguf_file": path.name}
    return model, {}


def _base_of_adapter(model: str, revision: str | None) -> str | None:
    """What an adapter (LoRA and its like) is put on; None where a model is no adapter.

    transformers reads an adapter beside a whole model or leaves it, by whether peft is installed.
    """
    from transformers.utils import find_adapter_config_file, is_peft_available

    try:
        found = find_adapter_config_file(model, revision=revision)
    except Exception:  # loading the model tells what is wrong
        return None
    if found is None:
        return None
    if not is_peft_available():
        raise CacheError(f"{model} is an adapter, which needs peft: pip install peft.")
    if (Path(model) / "config.json").is_file():
        raise CacheError(
            f"{model} holds a whole model and an adapter (adapter_config.json). "
            "Which of them is meant cannot be told: put them in two folders."
        )
    return json.loads(Path(found).read_text())["base_model_name_or_path"]


def _load_failure(what: str, model: str, error: Exception) -> str:
    return (
        f"The {what} of {model} could not be loaded: {type(error).__name__}: {error}\n"
        "Check the name, the network and, for a gated model, `hf auth login`; "
        "a local folder or a .gguf file works too."
    )
