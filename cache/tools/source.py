"""A complete cache as the source of another one: only what its checksums vouch for is taken."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.errors import CacheError
from cache.machine.durable import PARTIAL_SUFFIX, atomic_path, file_sha256
from cache.machine.lock import LOCK_NAME
from cache.storage.identity import Identity
from cache.storage.manifest import (
    FileRecord,
    Manifest,
    Plan,
    ShardRecord,
    state_of,
)
from cache.storage.paths import LENGTHS_DIR
from cache.storage.shard import ShardFile, content_sha256


@dataclass(frozen=True, kw_only=True)
class Source:
    """A complete cache that is only read."""

    directory: Path
    manifest: Manifest

    @property
    def identity(self) -> Identity:
        """Its identity."""
        return self.manifest.identity

    def record(self, path: str) -> FileRecord:
        """The manifest's record of a file that it names."""
        return next(file for file in self.manifest.files if file.path == path)

    def open(self, shard: ShardRecord) -> ShardFile:
        """One of its shards."""
        return ShardFile(self.directory, shard, self.identity)

    def require_sound(self, path: str) -> None:
        """Raise CacheError unless a file is what the manifest records."""
        original = self.directory / path
        if not original.is_file():
            raise _damaged(original, "missing")
        if file_sha256(original) != self.record(path).sha256:
            raise _damaged(original, "its sha256 is not the manifest's")

    def sound_arrays(self, shard: ShardRecord) -> dict[str, np.ndarray]:
        """A shard's datasets, after its checksums were compared.

        Raises:
            CacheError: it is damaged.
        """
        self.require_sound(shard.path)
        with self.open(shard) as file:
            arrays = file.read_all()
            if content_sha256(arrays) != file.content_sha256:
                path = self.directory / shard.path
                raise _damaged(path, "its content hash does not fit its content")
        return arrays

    def copy_other_files(self, out: Path, *, but: Sequence[str] = ()) -> None:
        """Copy the tokenizer and whatever else the manifest records beside shards and lengths.

        Raises:
            CacheError: a file is damaged, or the disk is full.
        """
        left_out = {shard.path for shard in self.manifest.plan.shards} | set(but)
        for file in self.manifest.files:
            if file.path in left_out or file.path.startswith(f"{LENGTHS_DIR}/"):
                continue
            self.require_sound(file.path)
            self.copy(file.path, out / file.path)

    def copy(self, path: str, to: Path) -> None:
        """Copy one of its files that was found sound.

        Raises:
            CacheError: the disk is full.
        """
        with atomic_path(to) as partial:
            shutil.copyfile(self.directory / path, partial)


def require_free(out: Path, traces: Sequence[str] = ()) -> None:
    """Raise CacheError unless `out` is absent, empty, or was begun and not finished.

    Args:
        out: the directory of a new cache.
        traces: names of files that may be left of work stopped before its plan was written.
    """
    found = state_of(out)
    if found.manifest is not None:
        raise CacheError(f"There is a complete cache at {out} already; give another OUT.")
    if found.plan is not None or not out.is_dir():
        return
    for path in out.iterdir():
        if path.name not in (LOCK_NAME, *traces) and not path.name.endswith(PARTIAL_SUFFIX):
            raise CacheError(f"{out} is not empty and holds no cache; give another OUT.")


def require_same_plan(out: Path, plan: Plan, what: str) -> None:
    """Raise CacheError if another plan was begun at `out`; `what` this one is, for the message."""
    if state_of(out).plan not in (None, plan):
        raise CacheError(f"{out} holds an unfinished cache that is not {what}; give another OUT.")


def _damaged(path: Path, problem: str) -> CacheError:
    return CacheError(
        f"{path} is damaged: {problem}. Nothing of it was used.\n"
        "Copy it again from where the cache came from, or build that cache again."
    )
