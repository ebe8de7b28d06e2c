"""What pushing and pulling share: what moves, and which manifest may follow which."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.storage.manifest import MANIFEST_NAME, FileRecord, Manifest

CARD_NAME = "README.md"
JOBS = 8


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a push or a pull moved."""

    num_files: int
    """Files of the cache that moved; the plan, the manifest and the card are not counted."""
    num_bytes: int
    num_kept: int
    """Files that were there already."""

    @classmethod
    def of(cls, files: Sequence[FileRecord], missing: Sequence[FileRecord]) -> "Transfer":
        """Of all files, those that are missing move."""
        return cls(
            num_files=len(missing),
            num_bytes=sum(file.num_bytes for file in missing),
            num_kept=len(files) - len(missing),
        )

    def words(self) -> str:
        """In a line, for people."""
        moved = f"{self.num_files:,} files moved ({self.num_bytes:,} bytes)"
        return f"{moved}, {self.num_kept:,} were there"


def wanted_files(
    manifest: Manifest, splits: Sequence[str], *, strict: bool = True
) -> list[FileRecord]:
    """Files of a cache but the shards of other splits; all of them where none is named.

    Raises:
        CacheError: a split that the cache does not have, unless not `strict`.
    """
    by_path = {shard.path: shard.split for shard in manifest.plan.shards}
    known = set(by_path.values())
    if strict and (unknown := sorted(set(splits) - known)):
        raise CacheError(
            f"The cache has no split {unknown[0]!r}; it has {', '.join(sorted(known))}."
        )
    wanted = set(splits) or known
    return [file for file in manifest.files if by_path.get(file.path) in (None, *wanted)]


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from somewhere else, under the checks of a local one.

    Raises:
        CacheError: it is damaged, of an unknown format, or names paths that it may not.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / MANIFEST_NAME
        path.write_bytes(raw)
        try:
            return Manifest.read(Path(folder))
        except CacheError as error:
            raise CacheError(str(error).replace(str(path), where)) from error


def require_same_or_extended(found: Manifest, new: Manifest, where: str, advice: str) -> None:
    """Raise CacheError unless `new` is the cache that was found, or one with more documents."""
    if found.identity.sha256 == new.identity.sha256:
        return
    if found.identity.shard_sha256 == new.identity.shard_sha256:
        records = {file.path: file.sha256 for file in new.files}
        shards = {shard.path for shard in found.plan.shards}
        if all(records.get(f.path) == f.sha256 for f in found.files if f.path in shards):
            return
    raise CacheError(
        f"{where} holds another cache: identity {found.identity.sha256[:12]} (teacher "
        f"{found.identity.teacher}), and this one is {new.identity.sha256[:12]} (teacher "
        f"{new.identity.teacher}).\nNothing was moved; {advice}."
    )


def _is_whole(directory: Path, file: FileRecord, *, hashed: bool) -> bool:
    path = directory / file.path
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    return not hashed or file_sha256(path) == file.sha256
