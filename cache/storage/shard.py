"""One HDF5 shard: documents end to end, and a row of soft targets for every token but the first.

cache/FORMAT.md is the specification; `cache.storage.layout` says which datasets there are.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from cache.data.documents import completion_marks
from cache.errors import CacheError
from cache.machine.durable import atomic_path
from cache.storage.identity import FORMAT_VERSION, Identity
from cache.storage.layout import ANY, ShardLayout
from cache.storage.manifest import ShardRecord
from cache.targets.fidelity import FORMER_MEASURES

CHUNK_BYTES = 1 << 17
MIN_CHUNK_ROWS = 1024
ENTROPY_CODED = ("tail_states", "tail_words")
"""Datasets in which no filter finds anything to pack."""
ENTROPY_CODED_CHUNK = 8192

# Byte shuffle, Zstd 9, Fletcher32: on 2,331 rows of SmolLM2-135M, k = 64, 275 bytes a row became
# 192, read in 1.4 us (gzip 4: 188, 2.6 us; Blosc2/Zstd: 187, 1.5 us; bitshuffle/LZ4: 229, 1.1 us).


def write_shard(path: Path, arrays: dict[str, np.ndarray], *, identity_sha256: str) -> None:
    """Write a shard, of today's format, so that it appears whole or not at all.

    The bytes of the file follow from `arrays` alone: no times are stored. The file is made in
    memory first, so that a full disk meets a plain write and not the inside of HDF5.

    Args:
        identity_sha256: `Identity.shard_sha256`.

    Raises:
        CacheError: the disk is full or cannot be written to.
    """
    image = image_of(arrays, identity_sha256)
    with atomic_path(path) as partial:
        partial.write_bytes(image)


def image_of(arrays: dict[str, np.ndarray], identity_sha256: str) -> bytes:
    """The bytes of a shard's file."""
    options = {"driver": "core", "backing_store": False, "libver": ("v110", "v110")}
    with h5py.File("shard", "w", **options) as file:
        for name in sorted(arrays):
            _write_dataset(file, name, arrays[name])
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["identity_sha256"] = identity_sha256
        file.attrs["content_sha256"] = content_sha256(arrays)
        file.flush()
        return file.id.get_file_image()


def _write_dataset(file: h5py.File, name: str, array: np.ndarray) -> None:
    options: dict[str, Any] = {}
    if array.size:
        row_bytes = array.nbytes // len(array)
        rows = min(max(CHUNK_BYTES // row_bytes, MIN_CHUNK_ROWS), len(array))
        if name in ENTROPY_CODED:
            rows = min(rows, ENTROPY_CODED_CHUNK)  # a last chunk is stored whole
        options = {"chunks": (rows, *array.shape[1:]), "fletcher32": True}
        if name not in ENTROPY_CODED:
            options |= {**hdf5plugin.Zstd(clevel=9), "shuffle": True}
    file.create_dataset(name, data=array, track_times=False, **options)


def content_sha256(arrays: dict[str, np.ndarray]) -> str:
    """Hash of every dataset's name, dtype, shape and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class ShardFile:
    """A shard opened for reading; its shapes are checked before anything is allocated."""

    def __init__(self, directory: Path, plan: ShardRecord, identity: Identity):
        """Open a shard of the cache in a directory.

        Raises:
            CacheError: it is missing, not HDF5, of another cache, or its datasets do not have
                the shapes that the plan promises.
        """
        self.path = path = directory / plan.path
        self._layout, self._num_rows = ShardLayout.of(identity), plan.num_rows
        self._shapes = self._layout.datasets(plan.num_documents, plan.num_tokens)
        self._datasets: dict[str, h5py.Dataset] = {}
        try:
            # File locks are off: shards are immutable, and NFS mounts often have none.
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=8 << 20)
        except FileNotFoundError as error:
            raise CacheError(f"{path} is missing. {_REMEDY}") from error
        except (OSError, RuntimeError) as error:
            raise CacheError(f"{path} is damaged: {error}. {_REMEDY}") from error
        try:
            self._require_header(identity)
            self._require_shapes()
        except CacheError:
            self._file.close()
            raise
        except Exception as error:  # damaged metadata surfaces as many kinds
            self._file.close()
            raise CacheError(f"{path} is damaged: {error}. {_REMEDY}") from error

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """Entries `start` to `stop` of a dataset.

        Raises:
            CacheError: the bytes on disk are damaged.
        """
        try:
            if name not in self._datasets:
                self._datasets[name] = self._file[name]
            return self._datasets[name][start:stop]
        except Exception as error:  # a failed checksum or filter
            raise CacheError(f"{self.path}, {name}: damaged: {error}. {_REMEDY}") from error

    def read_all(self) -> dict[str, np.ndarray]:
        """Every dataset, whole."""
        return {name: self.read(name) for name in self._shapes}

    @property
    def content_sha256(self) -> str:
        """Hash that the writer left of the content."""
        return str(self._file.attrs["content_sha256"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "ShardFile":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _require_header(self, identity: Identity) -> None:
        attrs = self._file.attrs
        if int(attrs["format_version"]) != identity.format_version:
            raise CacheError(
                f"{self.path} has format version {attrs['format_version']}, its cache has "
                f"{identity.format_version}. {_REMEDY}"
            )
        if str(attrs["identity_sha256"]) != identity.shard_sha256:
            raise CacheError(
                f"{self.path} belongs to another cache (identity {attrs['identity_sha256']}, "
                f"the manifest has {identity.shard_sha256}). {_REMEDY}"
            )
        if not isinstance(attrs["content_sha256"], str):
            raise CacheError(f"{self.path} is damaged: no content hash. {_REMEDY}")

    def _require_shapes(self) -> None:
        if set(self._file) != set(self._shapes):
            odd = sorted(set(self._file) ^ set(self._shapes))
            raise CacheError(f"{self.path}: datasets {odd} are missing or unknown. {_REMEDY}")
        for name, (dtype, shape) in self._shapes.items():
            link = self._file.get(name, getlink=True)  # others lead out of the file
            dataset = self._file[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise CacheError(f"{self.path}, {name}: not a plain dataset. {_REMEDY}")
            if shape[0] == ANY and dataset.ndim == len(shape):
                largest = self._layout.largest(name, self._num_rows)
                shape = (min(dataset.shape[0], largest), *shape[1:])
            if name == "fidelity" and dataset.shape[1:] == (FORMER_MEASURES,):
                shape = (shape[0], FORMER_MEASURES)
            if dataset.dtype != dtype or dataset.shape != shape:
                raise CacheError(
                    f"{self.path}, {name}: {dataset.dtype} {dataset.shape}, where the manifest "
                    f"needs {dtype} {shape}. {_REMEDY}"
                )
            if dataset.chunks and int(np.prod(dataset.chunks)) > max(int(np.prod(shape)), 1):
                raise CacheError(f"{self.path}, {name}: a chunk larger than its data. {_REMEDY}")


_REMEDY = (
    "Copy the shard again from where the cache came from, or delete the shard and "
    "manifest.json and give the cache-teacher command again: only that shard is recomputed."
)


def require_documents(
    offsets: np.ndarray, prompt_lengths: Sequence[int] | np.ndarray, num_tokens: int, where: str
) -> None:
    """Raise CacheError unless offsets cut `num_tokens` tokens into documents of 2 or more."""
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != num_tokens or (lengths < 2).any():
        raise CacheError(f"{where}: token_offsets do not cut {num_tokens} tokens into documents")
    prompts = np.asarray(prompt_lengths)
    if (prompts < 1).any() or (prompts >= lengths).any():
        raise CacheError(f"{where}: a prompt is empty or as long as its document")


def derived_marks(offsets: np.ndarray, prompt_lengths: np.ndarray) -> np.ndarray:
    """(num_tokens,) uint8 marks of documents that are each a prompt and its completion."""
    lengths = np.diff(offsets).tolist()
    pairs = zip(lengths, prompt_lengths.tolist(), strict=True)
    return np.concatenate([completion_marks(length, prompt) for length, prompt in pairs])


def with_marks(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A shard's datasets; those of version 3 get the marks that it had none of."""
    if "token_marks" in arrays:
        return arrays
    return arrays | {
        "token_marks": derived_marks(arrays["token_offsets"], arrays["prompt_lengths"])
    }


def is_intact(out: Path, shard: ShardRecord, identity: Identity) -> bool:
    """Whether an earlier run left this shard whole; its content is read and hashed."""
    try:
        with ShardFile(out, shard, identity) as file:
            return content_sha256(file.read_all()) == file.content_sha256
    except CacheError:
        return False
