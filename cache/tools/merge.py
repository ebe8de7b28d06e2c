"""Several caches of one teacher, made from other problems or splits, into one.

A cache may be built in parts, each on its own machine. The parts must agree in everything but
their documents. Shards are copied as they are, after their checksums were compared; those of an
older format are written anew, so a merge of one cache brings that up to date, and so are those of
a corpus whose documents get other numbers.

The merged cache's `dataset_sha256` of a split is the hash of the one source that has it, or
`json_sha256` of the list of the hashes of all that have it, in the order of the sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from cache.data.corpus import TEMPLATE
from cache.data.templates import CONVERSATIONS, PAIR
from cache.data.text_range import first_overlap
from cache.errors import CacheError
from cache.machine.durable import json_sha256, make_directory
from cache.machine.lock import writer_lock
from cache.machine.progress import BuildProgress
from cache.storage.created import merged_created, ranges_of
from cache.storage.finish import finish_cache
from cache.storage.identity import FORMAT_VERSION, Identity, require_same_identity
from cache.storage.left_over import remove_left_over
from cache.storage.manifest import Manifest, Plan, ShardRecord
from cache.storage.shard import with_marks, write_shard
from cache.tools.source import Source, require_free, require_same_plan

NUMBERED = (TEMPLATE, PAIR, CONVERSATIONS)
"""Templates whose documents have no number of their own, but that of their place."""


@dataclass(frozen=True, kw_only=True)
class MergeStep:
    """A shard of the merged cache and the shard it comes from."""

    shard: ShardRecord
    source: Source
    source_shard: ShardRecord


def merge_caches(out: Path, directories: Sequence[Path]) -> Manifest:
    """Make one cache at `out` from complete caches; these are only read.

    Documents keep their order: split by split those of the first source, then those of the
    second, and so on. Tokenizer and other files are the first source's, as are the names of
    teacher and revision. A merge that was stopped is made anew by the same call.

    Raises:
        CacheError: no source, one that is incomplete or damaged, identities that differ in more
            than the dataset, a problem or text that would be there twice, or another cache at
            `out`.
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
        remove_left_over(out, {shard.split for shard in plan.shards})
        plan.write(out)
        _write_shards(out, plan, steps)
        sources[0].copy_other_files(out)
        record = merged_created([source.manifest for source in sources])
        return finish_cache(out, plan, device=_devices(sources), record=record)


def _require_mergeable(source: Source, first: Source) -> None:
    require_same_identity(
        source.identity,
        first.identity,
        str(source.directory),
        ignore=("dataset_sha256", "format_version"),
        advice="Caches merge if they agree in all but the dataset. Build it again with what "
        f"{first.directory} was built with, or leave it out.",
    )


def require_distinct_documents(sources: Sequence[Source]) -> None:
    """Raise CacheError where a split would hold a problem, or a corpus a text, twice."""
    if sources[0].identity.template in NUMBERED:
        for one, other in combinations(sources, 2):
            _require_distinct_texts(one, other)
        return
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


def _require_distinct_texts(one: Source, other: Source) -> None:
    twice = first_overlap(ranges_of(one.manifest), ranges_of(other.manifest))
    hashes = one.identity.dataset_sha256.items() & other.identity.dataset_sha256.items()
    if twice is None and not hashes:
        return
    what = twice.words() if twice else f"the texts of {min(hashes)[0]}"
    raise CacheError(
        f"{one.directory} holds {what}, and {other.directory} holds some or all of them too.\n"
        "Leave one of them out, or build it again from other texts (--skip)."
    )


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
    configurations = [source.identity.configuration for source in sources]
    identity = replace(
        sources[0].identity,
        format_version=FORMAT_VERSION,
        configuration=None if None in configurations else configurations[0],
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
            write_step(out, step, plan.identity)
            progress.shard_done(out / step.shard.path, step.shard.num_rows)
            progress.advance(step.shard.num_rows)


def write_step(out: Path, step: MergeStep, identity: Identity) -> None:
    """Copy a shard; write it anew if its identity says less, or its documents get other numbers.

    Problems keep their task_id; texts and conversations are numbered by their place.

    Raises:
        CacheError: it is damaged, or the disk is full.
    """
    arrays = with_marks(step.source.sound_arrays(step.source_shard))
    numbers = arrays["task_ids"]
    if identity.template in NUMBERED:
        numbers = step.shard.first_document + np.arange(len(numbers), dtype=numbers.dtype)
    is_current = step.source.identity.shard_sha256 == identity.shard_sha256
    path = out / step.shard.path
    if is_current and np.array_equal(numbers, arrays["task_ids"]):
        step.source.copy(step.source_shard.path, path)
    else:
        arrays["task_ids"] = numbers
        write_shard(path, arrays, identity_sha256=identity.shard_sha256)


def _devices(sources: Sequence[Source]) -> str:
    found = (source.manifest.created.get("device") for source in sources)
    return ", ".join(dict.fromkeys(device for device in found if device))
