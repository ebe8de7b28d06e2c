"""The models under evaluation: where they are, how large they are, and which weights they hold."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.errors import CacheError
from cache.machine.precision import default_device, dtype_name
from cache.teacher.load import load_causal_lm, load_tokenizer
from evaluation.errors import EvaluationError

# What transformers loads; `consolidated.safetensors`, a half-precision variant or an adapter in the
# same folder is not the model.
MODEL_FILE, MODEL_INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL_PATTERNS = [MODEL_FILE, MODEL_INDEX, "model-*-of-*.safetensors"]
# What a checkpoint's behaviour depends on; notes and logs beside it do not.
IDENTITY_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
IDENTITY_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that has not been loaded yet."""

    label: str
    """Short and unique among the models compared."""
    source: str
    """Hub id, folder or .gguf file."""
    is_teacher: bool = False
    revision: str | None = None


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` is the accelerator where there is one.

    Raises: EvaluationError when this machine has no such device.
    """
    if name == "auto":
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EvaluationError(
            f"device {name!r} cannot be used here: {error}. Give auto, cpu, or one that exists"
        ) from error
    return device


def split_bystanders(paths: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Runs, and what a pattern such as `runs/*` caught beside them: plots, logs.

    A run that has not finished counts as a run, so that it is refused and not passed over;
    where nothing is a run, everything is kept for the same reason.
    """
    runs = tuple(
        path
        for path in paths
        if not path.exists() or (path / "config.json").is_file() or (path / "run.json").is_file()
    )
    if not runs:
        return paths, ()
    return runs, tuple(path for path in paths if path not in runs)


def list_sources(
    checkpoints: tuple[Path, ...], teacher: str | None, revision: str | None
) -> list[ModelSource]:
    """Teacher first, then the checkpoints, each with a label of its own.

    Raises: EvaluationError when a checkpoint is not a folder with a model in it.
    """
    sources = []
    if teacher is not None:
        label = Path(teacher).name or teacher
        sources.append(ModelSource(label=label, source=teacher, is_teacher=True, revision=revision))
    for path in checkpoints:
        if not (path / "config.json").is_file():
            raise EvaluationError(
                f"checkpoint {path} {_what_is(path)}. Need a folder in Hugging Face format; "
                "name only finished runs in --checkpoints"
            )
    labels = _unique_labels(checkpoints)
    sources += [
        ModelSource(label=label, source=str(path))
        for label, path in zip(labels, checkpoints, strict=True)
    ]
    return sources


def _what_is(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is a file"
    if (path / "run.json").is_file():
        return "is a run that has not finished (no config.json)"
    return "holds no model (no config.json)"


def _unique_labels(paths: tuple[Path, ...]) -> list[str]:
    """The shortest path endings that tell the folders apart.

    Raises: EvaluationError when the same folder is named twice.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise EvaluationError(f"checkpoint {twice} is named twice; name it once")
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def load_model(source: ModelSource, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """Model in evaluation mode on the device, and its tokenizer.

    Of its generation settings what ends a text is kept. Penalties, beams, time limits and the
    like are its author's taste: they would cost time, and every model is measured alike.

    Raises: EvaluationError when it cannot be loaded, lacks weights, or has no tokenizer.
    """
    from transformers import GenerationConfig

    device_map = str(device) if device.type == "cuda" else None
    try:
        model = load_causal_lm(
            source.source, revision=source.revision, dtype=dtype, device_map=device_map
        )
        tokenizer = load_tokenizer(source.source, source.revision)
    except CacheError as error:
        raise EvaluationError(str(error)) from error
    model.config.pad_token_id = None  # or transformers warns of padding, which no row sees
    saved = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=saved.bos_token_id,
        eos_token_id=saved.eos_token_id,
        pad_token_id=saved.pad_token_id,
        decoder_start_token_id=saved.decoder_start_token_id,
    )
    return model.to(device), tokenizer


def num_parameters(model: Any) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_identity(source: ModelSource) -> str:
    """A text that changes when the weights, configuration or tokenizer do.

    Files are hashed; a hub id is named by the commit it stands for.
    """
    path = Path(source.source)
    if path.is_file():
        return f"sha256:{_hash_files([path])}"
    if path.is_dir():
        names = {file for pattern in IDENTITY_PATTERNS for file in path.glob(pattern)}
        names |= {path / name for name in IDENTITY_FILES if (path / name).is_file()}
        return f"sha256:{_hash_files(sorted(names))}"
    folder = _hub_folder(source, ["config.json"])
    commit = folder.name if folder is not None else source.revision or "main"
    return f"{source.source}@{commit}"


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _hub_folder(source: ModelSource, patterns: list[str]) -> Path | None:
    """Snapshot of a hub model with these files; None where neither hub nor cache has it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source.source, revision=source.revision, allow_patterns=patterns)
        )
    except Exception:  # loading the model reports what is wrong, with more to go by
        return None


def safetensors_bytes(source: ModelSource, model: Any) -> tuple[int, str]:
    """Bytes of the model's .safetensors files, and how they were found.

    Where there are none (a GGUF file, pickled weights), what they would take: parameters, tied
    ones once, times the bytes of the dtype evaluated.
    """
    path = Path(source.source)
    folder: Path | None = path if path.is_dir() else None
    if folder is None and not path.is_file():
        folder = _hub_folder(source, MODEL_PATTERNS)
    files = _weight_files(folder) if folder is not None else []
    if files:
        return sum(file.stat().st_size for file in files), f"file ({_stored_dtypes(files)})"
    dtype = next(model.parameters()).dtype
    computed = num_parameters(model) * dtype.itemsize
    return computed, f"computed: parameters x {dtype.itemsize} bytes ({dtype_name(dtype)})"


def _weight_files(folder: Path) -> list[Path]:
    if (folder / MODEL_FILE).is_file():
        return [folder / MODEL_FILE]
    index = folder / MODEL_INDEX
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(folder / Path(name).name for name in names)
    return []


def _stored_dtypes(files: list[Path]) -> str:
    from safetensors import safe_open

    found = set()
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
    return "+".join(sorted(found))
