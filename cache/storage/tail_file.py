"""tail.safetensors: what the tails of all rows share, the basis or the output head."""

from dataclasses import fields
from pathlib import Path

import torch

from cache.errors import CacheError
from cache.machine.durable import atomic_path, file_sha256
from cache.storage.identity import Identity
from cache.targets.basis import TailBasis
from cache.targets.row_codec import OutputHead, RowCodec

TAIL_FILE = "tail.safetensors"
_UNIT = "hidden_unit"
"""What the file's header says of hidden states that were divided to be stored."""


def save_head(head: OutputHead, path: Path) -> None:
    """Write an output head, atomically."""
    told = None if head.unit == 1 else {_UNIT: repr(head.unit)}
    _save_tensors({"weight": head.weight, "bias": head.bias}, path, told)


def save_basis(basis: TailBasis, path: Path) -> None:
    """Write a basis, atomically."""
    _save_tensors({f.name: getattr(basis, f.name) for f in fields(basis)}, path)


def load_codec(directory: Path, identity: Identity) -> RowCodec:
    """The codec of a cache's rows, on the CPU.

    Raises:
        CacheError: the file is missing, damaged, or does not fit the identity.
    """
    path = directory / TAIL_FILE
    targets, vocab_size, width = identity.targets, identity.vocab_size, identity.tail_width
    if targets.tail == "lowrank":
        _require_sha256(path, identity.tail_sha256)
        basis = load_basis(path, vocab_size=vocab_size, rank=width)
        return RowCodec(
            targets,
            vocab_size,
            basis=basis,
            softcap=identity.logits.softcap,
            sha256=identity.tail_sha256,
        )
    if targets.tail == "hidden":
        head = load_head(directory, identity)
        return RowCodec(targets, vocab_size, head=head, sha256=identity.tail_sha256)
    return RowCodec(targets, vocab_size, num_tokens=identity.num_tokens)


def load_head(directory: Path, identity: Identity) -> OutputHead:
    """The output head beside a cache's hidden tails, fp32, on the CPU.

    Raises:
        CacheError: the file is missing, damaged, or does not fit the identity.
    """
    path, vocab_size, width = directory / TAIL_FILE, identity.vocab_size, identity.tail_width
    _require_sha256(path, identity.tail_sha256)
    tensors = _load_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"weight": (vocab_size, width), "bias": (vocab_size,)}:
        raise CacheError(f"{path} does not hold the output head: {shapes}.")
    return OutputHead(
        weight=tensors["weight"].float(),
        bias=tensors["bias"].float(),
        softcap=identity.logits.softcap,
        unit=_hidden_unit(path),
    )


def load_basis(path: Path, *, vocab_size: int, rank: int) -> TailBasis:
    """What `save_basis` wrote.

    Raises:
        CacheError: missing, damaged, or of other shapes than the identity promises.
    """
    tensors = _load_tensors(path)
    wanted = {f.name for f in fields(TailBasis)}
    if set(tensors) != wanted:
        raise CacheError(f"{path} does not hold a tail basis: {sorted(tensors)}.")
    basis = TailBasis(**tensors)
    width = len(basis.center)
    shapes = {
        "basis": (vocab_size, rank),
        "mean": (vocab_size,),
        "projection": (width, rank),
        "steps": (rank,),
        "limits": (rank,),
    }
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CacheError(f"{path}: {name} is {tuple(tensors[name].shape)}, not {shape}.")
    return basis


def _hidden_unit(path: Path) -> float:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:  # whose hash is the identity's
        return float((file.metadata() or {}).get(_UNIT, "1.0"))


def _save_tensors(
    tensors: dict[str, torch.Tensor], path: Path, told: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically and with the user's own file mode."""
    from safetensors.torch import save

    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, told)
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CacheError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CacheError(f"{path} is missing; the tails of the rows cannot be read.") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CacheError(f"{path} is damaged: {error}. Copy it again or rebuild.") from error


def _require_sha256(path: Path, expected: str) -> None:
    """A flipped bit in the basis would bend every tail of the cache without a sign."""
    if not path.is_file():
        raise CacheError(f"{path} is missing; the tails of the rows cannot be read. Copy it again.")
    if file_sha256(path) != expected:
        raise CacheError(
            f"{path} is damaged or of another cache: its sha256 is not the identity's. "
            "Copy it again from where the cache came from."
        )
