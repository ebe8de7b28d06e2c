"""The lengths of a cache's documents, beside the shards: planning an epoch opens none of those."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache.errors import CacheError
from cache.machine.durable import atomic_path
from cache.storage.manifest import Manifest, ShardRecord
from cache.storage.paths import LENGTHS_DIR

_DTYPE = np.dtype("<u4")


def lengths_path(split: str, num_documents: int) -> str:
    """Path of a split's lengths, inside the cache directory.

    The number keeps readers of a cache that is being extended with the lengths they know.
    """
    return f"{LENGTHS_DIR}/{split}-{num_documents}.npy"


def write_lengths(path: Path, lengths: np.ndarray) -> None:
    """Write (num_documents,) lengths in tokens, atomically."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.save(file, lengths.astype(_DTYPE), allow_pickle=False)


def read_lengths(
    directory: Path, manifest: Manifest, split: str, shards: Sequence[ShardRecord]
) -> np.ndarray:
    """(num_documents,) int64: tokens of each document of a split.

    Raises:
        CacheError: the file is missing, damaged, or does not fit the manifest's shards.
    """
    name = lengths_path(split, sum(shard.num_documents for shard in shards))
    promised = {file.path: file.num_bytes for file in manifest.files}.get(name)
    path = directory / name
    try:
        if path.stat().st_size != promised:
            raise ValueError(f"{path.stat().st_size} bytes, the manifest promises {promised}")
        lengths = np.load(path, mmap_mode="r", allow_pickle=False)  # no more than the file has
        _require_fit(lengths, shards)
    except Exception as error:  # a damaged header surfaces as many kinds
        raise CacheError(
            f"{path} is damaged: {error}.\nCopy it again from where the cache came from, or "
            "delete manifest.json and give the cache-teacher command again: it is made anew."
        ) from error
    return lengths.astype(np.int64)


def _require_fit(lengths: np.ndarray, shards: Sequence[ShardRecord]) -> None:
    num_documents = sum(shard.num_documents for shard in shards)
    if lengths.dtype != _DTYPE or lengths.shape != (num_documents,):
        raise ValueError(f"{lengths.dtype} {lengths.shape} for {num_documents} documents")
    firsts = [shard.first_document for shard in shards]
    sums = np.add.reduceat(lengths, firsts, dtype=np.int64)
    if (lengths < 2).any() or sums.tolist() != [shard.num_tokens for shard in shards]:
        raise ValueError("the lengths are not those of its shards")
