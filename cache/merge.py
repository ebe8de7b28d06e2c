"""Several caches of one teacher, made from other problems or splits, into one.

A cache may be built in parts, each on its own machine. The parts must agree in everything but
their problems. Shards are copied as they are, after their checksums were compared; those of an
older format are written anew, so a merge of one cache brings that up to date.

The merged cache's `dataset_sha256` of a split is the hash of the one source that has it, or
`json_sha256` of the list of the hashes of all that have it, in the order of the sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.durable import json_sha256, make_directory, remove_partials
from cache.errors import CacheError
from cache.finish import finish_cache, joint_cost
from cache.identity import FORMAT_VERSION, require_same_identity
from cache.lock import writer_lock
from cache.manifest import Manifest, Plan, ShardPlan
from cache.progress import BuildProgress
from cache.shard import write_shard
from cache.source import Source, require_free, require_same_plan


@dataclass(frozen=True, kw_only=True)
class MergeStep:
    """A shard of the merged cache and the shard it comes from."""

    shard: ShardPlan
    source: Source
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
    sources = [Source(directory=d, manifest=Manifest.read(d)) for d in directories]
    for source in sources[1:]:
        _require_mergeable(source, sources[0])
    require_distinct_documents(sources)
    steps = plan_steps(sources)
    plan = merged_plan(sources, steps)
    require_free(out)
    require_same_plan(out, plan, "a merge of these sources in this order")
    make_directory(out)
    with writer_lock(out):
        remove_partials(out)
        plan.write(out)
        _write_shards(out, plan, steps)
        sources[0].copy_other_files(out)
        cost = joint_cost([source.manifest for source in sources])
        return finish_cache(out, plan, device=_devices(sources), cost=cost)


def _require_mergeable(source: Source, first: Source) -> None:
    where = str(source.directory)
    try:
        require_same_identity(
            source.identity, first.identity, where, ignore=("dataset_sha256", "format_version")
        )
    except CacheError as error:
        differing = str(error).rpartition("\n")[0]  # without the remedy of a build
        raise CacheError(
            f"{differing}\nCaches merge if they agree in all but the dataset. Build it again with "
            f"what {first.directory} was built with, or leave it out."
        ) from error


def require_distinct_documents(sources: Sequence[Source]) -> None:
    """Raise CacheError where a split would hold a task_id twice."""
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


def plan_steps(sources: Sequence[Source]) -> list[MergeStep]:
    """Every shard, split by split in the order in which the splits first occur."""
    splits = dict.fromkeys(s.split for source in sources for s in source.manifest.plan.shards)
    steps: list[MergeStep] = []
    for split in splits:
        number = first_document = 0
        for source in sources:
            for shard in source.manifest.plan.shards:
                if shard.split != split:
                    continue
                path = f"{split}/shard-{number:05d}.h5"
                moved = replace(shard, path=path, first_document=first_document)
                steps.append(MergeStep(shard=moved, source=source, source_shard=shard))
                number += 1
                first_document += shard.num_documents
    return steps


def merged_plan(sources: Sequence[Source], steps: Sequence[MergeStep]) -> Plan:
    """The plan of all sources as one cache."""
    hashes: dict[str, list[str]] = {}
    dropped: dict[str, list[dict]] = {}
    for source in sources:
        for split, sha256 in source.identity.dataset_sha256.items():
            hashes.setdefault(split, []).append(sha256)
        for split, problems in source.manifest.plan.dropped.items():
            dropped.setdefault(split, []).extend(problems)
    identity = replace(
        sources[0].identity,
        format_version=FORMAT_VERSION,
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


def _write_shards(out: Path, plan: Plan, steps: Sequence[MergeStep]) -> None:
    with BuildProgress(total=sum(shard.num_rows for shard in plan.shards), done=0) as progress:
        for step in steps:
            path = out / step.shard.path
            arrays = step.source.sound_arrays(step.source_shard)
            if step.source.identity.format_version == FORMAT_VERSION:
                step.source.copy(step.source_shard.path, path)
            else:
                write_shard(path, arrays, identity_sha256=plan.identity.shard_sha256)
            progress.shard_done(path, step.shard.num_rows)
            progress.advance(step.shard.num_rows)


def _devices(sources: Sequence[Source]) -> str:
    found = (source.manifest.created.get("device") for source in sources)
    return ", ".join(dict.fromkeys(device for device in found if device))
