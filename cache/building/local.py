"""Stage one: run the teacher once over every document and leave a cache directory."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.building.compute import ShardMaker
from cache.building.config import BuildConfig
from cache.building.prepare import Prepared, finished_cache, prepare
from cache.building.workers import Worker, add_cost, remove_costs, total_cost
from cache.data.spool import remove_spool, spooled_texts
from cache.machine.durable import make_directory
from cache.machine.lock import prepare_lock, worker_lock, writer_lock
from cache.machine.progress import BuildProgress
from cache.storage.created import created_notes, created_origins, created_stamp, created_texts
from cache.storage.finish import finish_cache
from cache.storage.identity import Identity
from cache.storage.left_over import remove_left_over
from cache.storage.manifest import Manifest, Plan, ShardRecord, state_of
from cache.teacher.load import load_tokenizer
from cache.teacher.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build left."""

    manifest: Manifest
    num_documents: int
    num_rows: int
    num_new_rows: int
    """Rows computed by this call; the others were there."""
    num_bytes: int
    """Of the whole directory."""
    row_bytes: int
    """Of the shards alone."""
    seconds: float
    """Spent in the teacher's loop."""
    already_complete: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerSummary:
    """What one of several workers did."""

    num_new_rows: int
    """Rows computed by this call."""
    missing: Mapping[int, int]
    """Shards that are not written yet, by the rank of their worker."""
    summary: BuildSummary | None
    """Of the whole cache, if all shards are there."""


def build_cache(
    config: BuildConfig, *, teacher: Teacher | None = None, like: Identity | None = None
) -> BuildSummary:
    """Build the cache at `config.out`, or go on where an earlier call was stopped.

    Every shard is computed on its own, so a build that was killed and resumed, or divided among
    workers, ends with the same bytes in every dataset as one that was not.

    Args:
        config: the job.
        teacher: its teacher where that is loaded already.
        like: identity of a cache that it must agree with in all but the documents.

    Raises:
        CacheError: bad input, an identity unlike the one to agree with, another cache in the
            way, a full disk, NaN logits. Nothing half-written is visible, and finished shards stay.
    """
    tokenizer = load_tokenizer(config.teacher, config.revision)
    complete = finished_cache(config, tokenizer, teacher)
    if complete is not None:
        remove_spool(config.out)
        return summary_of(complete)
    make_directory(config.out)
    with writer_lock(config.out):
        prepared = prepare(config, tokenizer, teacher=teacher, like=like)
        if prepared is None:
            return summary_of(Manifest.read(config.out))
        remove_left_over(config.out, config.cached_splits)
        num_new_rows, seconds = _compute(config, prepared, prepared.plan.shards)
        manifest = _finish(config, prepared, num_new_rows, seconds)
    return summary_of(manifest, num_new_rows=num_new_rows, seconds=seconds)


def build_as_worker(
    config: BuildConfig, worker: Worker, *, teacher: Teacher | None = None
) -> WorkerSummary:
    """Compute one worker's part of the shards; who finds all there completes the cache.

    Workers need no connection but the directory. They may begin at different times, on any
    hosts, and one that was stopped resumes with the same call.

    Args:
        config: the job, the same for all workers.
        worker: which of them.
        teacher: its teacher where that is loaded already.

    Raises:
        CacheError: as `build_cache`; another process is this worker, or writes all.
    """
    tokenizer = load_tokenizer(config.teacher, config.revision)
    complete = finished_cache(config, tokenizer, teacher)
    if complete is not None:
        return WorkerSummary(num_new_rows=0, missing={}, summary=summary_of(complete))
    make_directory(config.out)
    with worker_lock(config.out, worker.name, same=worker.siblings):
        prepared = prepare(config, tokenizer, teacher=teacher)
        if prepared is None:
            complete = Manifest.read(config.out)
            return WorkerSummary(num_new_rows=0, missing={}, summary=summary_of(complete))
        remove_left_over(config.out, config.cached_splits, of_the_dead=True)
        shards = prepared.plan.shards
        num_new_rows, seconds = _compute(config, prepared, worker.of(shards))
        add_cost(config.out, worker, rows=num_new_rows, seconds=seconds)
        with prepare_lock(config.out):
            missing = Counter(
                number % worker.count
                for number, shard in enumerate(shards)
                if not (config.out / shard.path).is_file()
            )
            manifest = None
            if not missing:
                manifest = state_of(config.out).manifest or _finish(config, prepared, 0, 0.0)
    summary = None
    if manifest is not None:
        summary = summary_of(manifest, num_new_rows=num_new_rows, seconds=seconds)
    return WorkerSummary(num_new_rows=num_new_rows, missing=missing, summary=summary)


def _compute(
    config: BuildConfig, prepared: Prepared, shards: Sequence[ShardRecord]
) -> tuple[int, float]:
    """Compute those of the shards that are missing; rows computed, and seconds."""
    started = time.monotonic()
    maker = ShardMaker(config, prepared)
    missing = maker.missing(shards)
    total, new = (sum(shard.num_rows for shard in some) for some in (shards, missing))
    with BuildProgress(total=total, done=total - new) as progress:
        maker.make(missing, progress)
    return new, time.monotonic() - started


def _finish(config: BuildConfig, prepared: Prepared, num_rows: int, seconds: float) -> Manifest:
    teacher = prepared.teacher
    return finish_build(
        config.out, prepared.plan, num_parameters=teacher.num_parameters, notes=teacher.notes,
        stamp=teacher.stamp, origins=prepared.job.origins, device=str(teacher.device),
        num_rows=num_rows, seconds=seconds,
    )  # fmt: skip


def finish_build(
    out: Path,
    plan: Plan,
    *,
    num_parameters: int,
    notes: Sequence[str],
    stamp: str,
    origins: Mapping[str, Sequence[str]],
    device: str,
    num_rows: int,
    seconds: float,
) -> Manifest:
    """Write the manifest of a directory whose shards are all there, and tidy up.

    Args:
        num_parameters: of the teacher.
        notes: on the teacher, for whoever reads the fidelity.
        stamp: of the teacher's files.
        origins: by split who wrote each document's solution.
        device: it ran on.
        num_rows: computed by the caller, beside what workers have recorded.
        seconds: spent on those.

    Raises:
        CacheError: a shard is damaged, or the disk is full.
    """
    record = {
        "teacher_parameters": num_parameters,
        **total_cost(out, rows=num_rows, seconds=seconds),
        **created_texts(spooled_texts(out)),
        **created_notes(notes),
        **created_stamp([stamp]),
        **created_origins(origins),
    }
    manifest = finish_cache(out, plan, device=device, record=record)
    remove_costs(out)
    remove_spool(out)
    return manifest


def summary_of(
    manifest: Manifest, *, num_new_rows: int = 0, seconds: float | None = None
) -> BuildSummary:
    """The summary of a complete cache; without seconds, it was complete before."""
    shards = manifest.plan.shards
    return BuildSummary(
        manifest=manifest,
        num_documents=sum(shard.num_documents for shard in shards),
        num_rows=sum(shard.num_rows for shard in shards),
        num_new_rows=num_new_rows,
        num_bytes=manifest.num_bytes,
        row_bytes=sum(f.num_bytes for f in manifest.files if f.path in {s.path for s in shards}),
        seconds=seconds or 0.0,
        already_complete=seconds is None,
    )
