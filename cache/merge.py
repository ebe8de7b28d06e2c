"""Several caches of one teacher, made from other problems or splits, into one.

A cache may be built in parts, each on its own machine. The parts must agree in everything but
their problems. A shard names the cache it belongs to, so it is read, checked and written again
under the identity of the merged cache; its rows stay as they are.

The merged cache's `dataset_sha256` of a split is the hash of the one source that has it, or
`json_sha256` of the list of the hashes of all that have it, in the order of the sources.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.durable import (
    PARTIAL_SUFFIX,
    atomic_path,
    file_sha256,
    json_sha256,
    make_directory,
)
from cache.errors import CacheError
from cache.finish import finish_cache, open_shard_file
from cache.identity import Identity, require_same_identity
from cache.lock import LOCK_NAME, writer_lock
from cache.manifest import MANIFEST_NAME, PLAN_NAME, FileRecord, Manifest, Plan, ShardPlan
from cache.progress import BuildProgress
from cache.shard import ShardFile, content_sha256, remove_partials, write_shard


@dataclass(frozen=True, kw_only=True)
class _Source:
    directory: Path
    manifest: Manifest

    @property
    def identity(self) -> Identity:
        return self.manifest.identity

    def record(self, path: str) -> FileRecord:
        """The manifest's record of a file."""
        for file in self.manifest.files:
            if file.path == path:
                return file
        raise _damaged(self.directory / path, "the manifest has no checksum of it")

    def open(self, shard: ShardPlan) -> ShardFile:
        """One of the source's shards."""
        return open_shard_file(self.directory, shard, self.identity)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A shard of the merged cache and the shard it comes from."""

    shard: ShardPlan
    source: _Source
    source_shard: ShardPlan


def merge_caches(out: Path, directories: Sequence[Path]) -> Manifest:
    """Make one cache at `out` from complete caches; these are only read.

    Documents keep their order: split by split those of the first source, then those of the
    second, and so on. Tokenizer and other files are the first source's, as are the names of
    teacher and revision. A merge that was stopped is made anew by the same call.

    Raises:
        CacheError: no source, one that is incomplete or damaged, identities that differ in more
            than the dataset, a task_id that a split would hold twice, or something else at `out`.
    """
    if not directories:
        raise CacheError("There is nothing to merge; name one complete cache or more.")
    sources = [_Source(directory=d, manifest=Manifest.read(d)) for d in directories]
    for source in sources[1:]:
        _require_mergeable(source, sources[0])
    _require_distinct_documents(sources)
    steps = _plan_steps(sources)
    plan = _merged_plan(sources, steps)
    _require_free(out, plan)
    make_directory(out)
    with writer_lock(out):
        remove_partials(out)
        plan.write(out)
        _write_shards(out, plan, steps)
        _copy_other_files(out, sources[0])
        return finish_cache(out, plan, device=_devices(sources))


def _require_mergeable(source: _Source, first: _Source) -> None:
    where = str(source.directory)
    try:
        require_same_identity(source.identity, first.identity, where, ignore=("dataset_sha256",))
    except CacheError as error:
        differing = str(error).rpartition("\n")[0]  # without the remedy of a build
        raise CacheError(
            f"{differing}\nCaches merge if they agree in all but the dataset. Build it again with "
            f"what {first.directory} was built with, or leave it out."
        ) from error


def _require_distinct_documents(sources: Sequence[_Source]) -> None:
    holders: dict[tuple[str, int], Path] = {}
    for source in sources:
        for shard in source.manifest.plan.shards:
            with source.open(shard) as file:
                task_ids = file.read("task_ids").tolist()
            for task_id in task_ids:
                if (shard.split, task_id) in holders:
                    raise CacheError(
                        f"Split {shard.split!r} would hold task_id {task_id} twice: it is in "
                        f"{holders[shard.split, task_id]} and in {source.directory}.\n"
                        "Leave one of them out, or build it again from other problems."
                    )
                holders[shard.split, task_id] = source.directory


def _plan_steps(sources: Sequence[_Source]) -> list[_Step]:
    """Every shard, split by split in the order in which the splits first occur."""
    splits = dict.fromkeys(s.split for source in sources for s in source.manifest.plan.shards)
    steps: list[_Step] = []
    for split in splits:
        number = first_document = 0
        for source in sources:
            for shard in source.manifest.plan.shards:
                if shard.split != split:
                    continue
                path = f"{split}/shard-{number:05d}.h5"
                moved = replace(shard, path=path, first_document=first_document)
                steps.append(_Step(shard=moved, source=source, source_shard=shard))
                number += 1
                first_document += shard.num_documents
    return steps


def _merged_plan(sources: Sequence[_Source], steps: Sequence[_Step]) -> Plan:
    hashes: dict[str, list[str]] = {}
    dropped: dict[str, list[dict]] = {}
    for source in sources:
        for split, sha256 in source.identity.dataset_sha256.items():
            hashes.setdefault(split, []).append(sha256)
        for split, problems in source.manifest.plan.dropped.items():
            dropped.setdefault(split, []).extend(problems)
    identity = replace(
        sources[0].identity,
        dataset=", ".join(dict.fromkeys(source.identity.dataset for source in sources)),
        dataset_sha256={
            split: found[0] if len(found) == 1 else json_sha256(found)
            for split, found in hashes.items()
        },
    )
    return Plan(
        identity=identity,
        batch_tokens=max(source.manifest.plan.batch_tokens for source in sources),
        shards=tuple(step.shard for step in steps),
        dropped=dropped,
    )


def _require_free(out: Path, plan: Plan) -> None:
    """Raise CacheError unless `out` is absent, empty, or what a stopped merge of these left."""
    if (out / MANIFEST_NAME).exists():
        raise CacheError(f"There is a complete cache at {out} already; give another OUT.")
    if (out / PLAN_NAME).exists():
        if Plan.read(out) != plan:
            raise CacheError(
                f"{out} holds an unfinished cache that is not a merge of these sources in this "
                "order; give another OUT."
            )
    elif out.is_dir() and any(not _is_trace(path) for path in out.iterdir()):
        raise CacheError(f"{out} is not empty and holds no cache; give another OUT.")


def _is_trace(path: Path) -> bool:
    """Whether a merge that was stopped before its plan was written may have left this."""
    return path.name == LOCK_NAME or path.name.endswith(PARTIAL_SUFFIX)


def _write_shards(out: Path, plan: Plan, steps: Sequence[_Step]) -> None:
    with BuildProgress(total=sum(shard.num_rows for shard in plan.shards), done=0) as progress:
        for step in steps:
            path = out / step.shard.path
            arrays = _sound_arrays(step.source, step.source_shard)
            write_shard(path, arrays, identity_sha256=plan.identity.sha256)
            progress.shard_done(path, step.shard.num_rows)
            progress.advance(step.shard.num_rows)


def _sound_arrays(source: _Source, shard: ShardPlan) -> dict[str, np.ndarray]:
    """A source shard's datasets, after its checksums were compared."""
    path = source.directory / shard.path
    if file_sha256(path) != source.record(shard.path).sha256:
        raise _damaged(path, "its sha256 is not the manifest's")
    with source.open(shard) as file:
        arrays = file.read_all()
        if content_sha256(arrays) != file.content_sha256:
            raise _damaged(path, "its content hash does not fit its content")
    return arrays


def _copy_other_files(out: Path, source: _Source) -> None:
    """Copy the tokenizer and whatever else the manifest records beside the shards."""
    shards = {shard.path for shard in source.manifest.plan.shards}
    for file in source.manifest.files:
        if file.path in shards:
            continue
        original = source.directory / file.path
        if not original.is_file():
            raise _damaged(original, "missing")
        with atomic_path(out / file.path) as partial:
            shutil.copyfile(original, partial)
            if file_sha256(partial) != file.sha256:
                raise _damaged(original, "its sha256 is not the manifest's")


def _devices(sources: Sequence[_Source]) -> str:
    found = (source.manifest.created.get("device") for source in sources)
    return ", ".join(dict.fromkeys(device for device in found if device))


def _damaged(path: Path, problem: str) -> CacheError:
    return CacheError(
        f"{path} is damaged: {problem}. Nothing of it was used.\n"
        "Copy it again from where the cache came from, or build that cache again."
    )
