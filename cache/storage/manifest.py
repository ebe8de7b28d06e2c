"""plan.json and manifest.json: which documents stand in which shard, and what was written.

The plan is written first and the manifest last: a manifest means that the cache is complete.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json
from cache.storage.identity import Identity, identity_from_json
from cache.storage.manifest_checks import (
    require_count,
    require_created,
    require_dropped,
    require_fidelity,
    require_files,
    require_shards,
)
from cache.targets.fidelity import Fidelity

PLAN_NAME = "plan.json"
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A shard: consecutive documents of one split, computed on their own."""

    path: str
    """Inside the cache directory, with forward slashes."""
    split: str
    first_document: int
    num_documents: int
    num_tokens: int

    @property
    def num_rows(self) -> int:
        """Rows of soft targets in the shard."""
        return self.num_tokens - self.num_documents


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of a complete cache."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What stage one is going to write."""

    identity: Identity
    batch_tokens: int
    """Padded tokens of a teacher batch: it can change the last bits of a row."""
    shards: tuple[ShardRecord, ...]
    dropped: dict[str, list[dict[str, Any]]]
    """By split: task_id and reason of every problem that gave no document."""

    def write(self, directory: Path) -> None:
        """Write plan.json."""
        write_sealed_json(directory / PLAN_NAME, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> "Plan":
        """Read plan.json.

        Raises:
            CacheError: missing, damaged, or not a plan.
        """
        content = read_sealed_json(directory / PLAN_NAME)
        return _parse(directory / PLAN_NAME, lambda: _plan_from_json(content))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete cache holds."""

    plan: Plan
    files: tuple[FileRecord, ...]
    """Every shard, the lengths of every split, the tokenizer's files and the tail's."""
    fidelity: tuple[Fidelity, ...]
    """Stored targets against the teacher's own, by temperature, over a sample of rows."""
    created: dict[str, Any]
    """Date, machine and device, and what the teacher's run cost, for the record."""

    @property
    def identity(self) -> Identity:
        """Identity of the cache."""
        return self.plan.identity

    @property
    def num_bytes(self) -> int:
        """Bytes of all recorded files."""
        return sum(file.num_bytes for file in self.files)

    def write(self, directory: Path) -> None:
        """Write manifest.json: from here on the cache is complete."""
        write_sealed_json(directory / MANIFEST_NAME, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read manifest.json.

        Raises:
            CacheError: the directory holds no complete cache, or its manifest is damaged.
        """
        _require_manifest(directory)
        path = directory / MANIFEST_NAME
        content = read_sealed_json(path)
        return _parse(path, lambda: _manifest_from_json(content))


@dataclass(frozen=True, kw_only=True)
class CacheState:
    """How far a directory is on its way to a cache, read once."""

    directory: Path
    plan: Plan | None = None
    """What is going to be written, or is; None: nothing was begun."""
    manifest: Manifest | None = None
    """Of a complete cache."""

    @property
    def missing(self) -> list[ShardRecord]:
        """Shards of the plan that are not there."""
        shards = self.plan.shards if self.plan else ()
        return [shard for shard in shards if not (self.directory / shard.path).is_file()]

    @property
    def complete(self) -> Manifest | None:
        """The manifest, if every shard is there too."""
        return None if self.missing else self.manifest


def state_of(directory: Path) -> CacheState:
    """How far a directory is: absent, begun (a plan) or complete (a manifest).

    Raises:
        CacheError: the plan or the manifest is damaged.
    """
    plan = manifest = None
    if (directory / MANIFEST_NAME).is_file():
        manifest = Manifest.read(directory)
        plan = manifest.plan
    elif (directory / PLAN_NAME).is_file():
        plan = Plan.read(directory)
    return CacheState(directory=directory, plan=plan, manifest=manifest)


def _require_manifest(directory: Path) -> None:
    """Raise CacheError, with how far it is, unless the directory holds a manifest."""
    if (directory / MANIFEST_NAME).is_file():
        return
    found = state_of(directory)
    if found.plan is not None:
        num_shards = len(found.plan.shards)
        raise CacheError(
            f"The cache at {directory} is not complete: {num_shards - len(found.missing)} of its "
            f"{num_shards} shards are written, and no manifest.\n"
            f"Give its cache-teacher command again (same options, --out {directory}): "
            "it resumes where it stopped. After a stopped `cache merge`, `cache reencode` or "
            "`cache pull`, give that command again."
        )
    raise CacheError(
        f"There is no cache at {directory} (no {MANIFEST_NAME}).\n"
        f"Build one: python cli.py cache-teacher --out {directory}"
    )


def _parse(path: Path, build):
    try:
        return build()
    except CacheError as error:
        raise CacheError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CacheError(f"{path} does not have the fields of a cache: {error!r}") from error


def _manifest_from_json(content: Any) -> Manifest:
    plan = _plan_from_json(content["plan"])
    require_files(content["files"], {shard.path for shard in plan.shards})
    require_fidelity(content["fidelity"])
    require_created(content["created"])
    return Manifest(
        plan=plan,
        files=tuple(FileRecord(**file) for file in content["files"]),
        fidelity=tuple(Fidelity(**row) for row in content["fidelity"]),
        created=content["created"],
    )


def _plan_from_json(content: Any) -> Plan:
    identity = identity_from_json(content["identity"])  # first: it has the format's version
    require_shards(content["shards"])
    require_dropped(content["dropped"])
    return Plan(
        identity=identity,
        batch_tokens=require_count(content["batch_tokens"]),
        shards=tuple(ShardRecord(**shard) for shard in content["shards"]),
        dropped=content["dropped"],
    )
