"""tail.safetensors: what the tails of all rows share, the basis or the output head."""

from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.storage.identity import Identity
from cache.targets.basis import TailBasis, load_tensors, save_tensors
from cache.targets.row_codec import OutputHead, RowCodec

TAIL_FILE = "tail.safetensors"


def save_head(head: OutputHead, path: Path) -> None:
    """Write an output head, atomically."""
    save_tensors({"weight": head.weight, "bias": head.bias}, path)


def load_codec(directory: Path, identity: Identity) -> RowCodec:
    """The codec of a cache's rows, on the CPU.

    Raises:
        CacheError: the file is missing, damaged, or does not fit the identity.
    """
    path = directory / TAIL_FILE
    targets, vocab_size, width = identity.targets, identity.vocab_size, identity.tail_width
    if targets.tail == "lowrank":
        _require_sha256(path, identity.tail_sha256)
        basis = TailBasis.load(path, vocab_size=vocab_size, rank=width)
        return RowCodec(targets, vocab_size, basis=basis)
    if targets.tail == "hidden":
        head = load_head(directory, identity)
        return RowCodec(targets, vocab_size, head=head)
    return RowCodec(targets, vocab_size)


def load_head(directory: Path, identity: Identity) -> OutputHead:
    """The output head beside a cache's hidden tails, fp32, on the CPU.

    Raises:
        CacheError: the file is missing, damaged, or does not fit the identity.
    """
    path, vocab_size, width = directory / TAIL_FILE, identity.vocab_size, identity.tail_width
    _require_sha256(path, identity.tail_sha256)
    tensors = load_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {"weight": (vocab_size, width), "bias": (vocab_size,)}:
        raise CacheError(f"{path} does not hold the output head: {shapes}.")
    return OutputHead(weight=tensors["weight"].float(), bias=tensors["bias"].float())


def _require_sha256(path: Path, expected: str) -> None:
    """A flipped bit in the basis would bend every tail of the cache without a sign."""
    if not path.is_file():
        raise CacheError(f"{path} is missing; the tails of the rows cannot be read. Copy it again.")
    if file_sha256(path) != expected:
        raise CacheError(
            f"{path} is damaged or of another cache: its sha256 is not the identity's. "
            "Copy it again from where the cache came from."
        )
