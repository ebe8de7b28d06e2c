"""Before the shards of stage one: documents, the tail's file, the identity, plan.json."""

import warnings
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cache.building.config import BuildConfig
from cache.building.fit_basis import fit_basis, fit_head
from cache.building.job import BuildJob, read_job
from cache.errors import CacheError, CacheWarning
from cache.machine.durable import atomic_path, file_sha256
from cache.machine.lock import prepare_lock
from cache.machine.precision import dtype_name, resolve_dtype
from cache.storage.created import STAMP
from cache.storage.identity import FORMAT_VERSION, Identity, library_versions, require_same_identity
from cache.storage.manifest import (
    MANIFEST_NAME,
    CacheState,
    Manifest,
    Plan,
    state_of,
)
from cache.storage.paths import TOKENIZER_DIR
from cache.storage.tail_file import TAIL_FILE, load_codec, save_basis, save_head
from cache.targets.format import LogitMap
from cache.teacher.load import load_causal_lm, num_token_ids, tokenizer_sha256
from cache.teacher.notes import teacher_notes
from cache.teacher.probe import require_understood
from cache.teacher.save_tokenizer import save_tokenizer
from cache.teacher.stamp import source_stamp
from cache.teacher.teacher import Teacher

_NOT_YET_KNOWN = (
    "teacher_sha256", "vocab_size", "logits", "configuration", "tail_width", "tail_sha256",
)  # fmt: skip

_NO_TEACHER: dict[str, Any] = {"teacher_sha256": "", "vocab_size": 0, "logits": LogitMap()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What every process that computes shards needs."""

    job: BuildJob
    """Documents."""
    plan: Plan
    """What plan.json says."""
    teacher: Teacher


def prepare(
    config: BuildConfig, tokenizer, *, teacher: Teacher | None = None, like: Identity | None = None
) -> Prepared | None:
    """Make all but the shards where it is not there; None if the cache is complete.

    Of several processes the first does the work, the others wait for it.

    Args:
        config: the job; its `out` exists, and the process may write to it.
        teacher: its teacher where that is loaded already.
        like: identity of a cache that it must agree with in all but the documents.

    Raises:
        CacheError: as `cache.building.local.build_cache`.
    """
    with prepare_lock(config.out):
        found = state_of(config.out)
        job = _job_of(config, tokenizer, found)
        if found.manifest is not None:
            _require_same_teacher(config, found.manifest, teacher)
        if found.complete is not None:
            return None
        if found.manifest is not None:  # shards of it are gone
            (config.out / MANIFEST_NAME).unlink()
            found = state_of(config.out)
        if not _is_prepared(config, found):
            teacher = teacher or load_teacher(config, job, tokenizer)
            if found.plan is None:
                # Left by a build that was stopped before its plan said what it was made for.
                (config.out / TAIL_FILE).unlink(missing_ok=True)
            save_tokenizer(tokenizer, config.out / TOKENIZER_DIR)
            _write_tail(config, job, teacher)
            return _planned(config, job, tokenizer, teacher, like, found)
    teacher = teacher or load_teacher(config, job, tokenizer)  # at the same time as others
    return _planned(config, job, tokenizer, teacher, like, found)


def _planned(
    config: BuildConfig,
    job: BuildJob,
    tokenizer,
    teacher: Teacher,
    like: Identity | None,
    found: CacheState,
) -> Prepared:
    identity = _identity(config, job, tokenizer, teacher, config.targets.tail_width(teacher.width))
    if like is not None:
        require_same_identity(
            like, identity, "the cache", ignore=("dataset_sha256",),
            advice="What is added agrees with the cache in all but the documents: name its own "
            "teacher and use its libraries, or build another cache with cache-teacher.",
        )  # fmt: skip
    plan = _write_or_check_plan(config, job, identity, found.plan)
    return Prepared(job=job, plan=plan, teacher=teacher)


def finished_cache(
    config: BuildConfig, tokenizer, teacher: Teacher | None = None
) -> Manifest | None:
    """The manifest of the complete cache at `out`, read alone; None if there is work left.

    Raises:
        CacheError: there is another cache, or one of another teacher.
    """
    found = state_of(config.out)
    if found.complete is not None:
        _job_of(config, tokenizer, found)
        _require_same_teacher(config, found.complete, teacher)
    return found.complete


def _require_same_teacher(config: BuildConfig, found: Manifest, teacher: Teacher | None) -> None:
    """Raise CacheError where a cache is of another teacher than the one that is named.

    The teacher is loaded only where its files may have changed since the cache was made.
    """
    stamp = source_stamp(config.teacher, config.revision)
    if teacher is None and stamp and stamp == found.created.get(STAMP):
        return
    teacher = teacher or _loaded(config)
    asked = replace(found.identity, **teacher.identity_fields)
    require_same_identity(found.identity, asked, str(config.out))


def _job_of(config: BuildConfig, tokenizer, found: CacheState) -> BuildJob:
    """The job itself; raises CacheError where what was found is of another one."""
    job = read_job(config, tokenizer, found)
    if found.plan is not None:
        early = _identity(config, job, tokenizer, teacher=None)
        there = found.plan.identity
        require_same_identity(there, early, str(config.out), ignore=_NOT_YET_KNOWN)
        _require_same_tail_source(config, there)
    return job


def _require_same_tail_source(config: BuildConfig, there: Identity) -> None:
    """Raise CacheError where a cache was begun with another basis than that of --tail-from."""
    if config.tail_from is None or there.targets.tail != "lowrank":
        return
    if Manifest.read(config.tail_from).identity.tail_sha256 != there.tail_sha256:
        raise CacheError(
            f"{config.out} was begun with another basis than that of --tail-from "
            f"{config.tail_from}.\nGive the options it was built with, or another --out."
        )


def _is_prepared(config: BuildConfig, found: CacheState) -> bool:
    out, has_tail = config.out, config.targets.tail in ("hidden", "lowrank")
    return (
        found.plan is not None
        and (out / TOKENIZER_DIR).is_dir()
        and (not has_tail or (out / TAIL_FILE).is_file())
    )


def load_teacher(config: BuildConfig, job: BuildJob, tokenizer) -> Teacher:
    """The teacher that a configuration names.

    Raises:
        CacheError: it cannot be loaded, or the planned documents do not fit it.
    """
    teacher = _loaded(config)
    require_fit(teacher, job, config)
    first = next(iter(job.documents.values()))[:8]
    require_understood(teacher, first, job.longest)
    teacher.notes = teacher_notes(teacher, first, tokenizer)
    for note in teacher.notes:
        warnings.warn(note, CacheWarning, stacklevel=2)
    return teacher


def _loaded(config: BuildConfig) -> Teacher:
    stamp = source_stamp(config.teacher, config.revision)  # before: it may change meanwhile
    model = load_causal_lm(
        config.teacher,
        revision=config.revision,
        dtype=resolve_dtype(config.dtype),
        device_map=config.device_map,
    )
    teacher = Teacher(model)
    teacher.stamp = stamp
    return teacher


def require_fit(teacher: Teacher, job: BuildJob, config: BuildConfig) -> None:
    """Raise CacheError where documents hold ids or positions that the teacher does not have."""
    if job.largest_id >= teacher.vocab_size:
        raise CacheError(
            f"The tokenizer of {config.teacher} gives the token id {job.largest_id}, but the "
            f"teacher's head has only {teacher.vocab_size} rows.\n"
            "Tokenizer and weights do not belong together; take both from one source."
        )
    limit = teacher.max_positions
    if limit is not None and job.longest > limit:
        raise CacheError(
            f"The longest document has {job.longest} tokens, the teacher takes {limit}.\n"
            f"Give --max-length {limit}."
        )


def _write_tail(config: BuildConfig, job: BuildJob, teacher: Teacher) -> None:
    """Make tail.safetensors where the tail needs it and it is not there. The plan has its hash.

    A basis is fitted on the first documents only, so that it never depends on how far a build
    came before it was stopped.
    """
    path, targets = config.out / TAIL_FILE, config.targets
    if path.is_file() or targets.tail not in ("hidden", "lowrank"):
        return
    if targets.tail == "hidden":
        documents = chain.from_iterable(job.documents.values())
        save_head(fit_head(teacher, documents, config.batch_tokens), path)
    elif config.tail_from is not None:
        _copy_tail(config.tail_from, config, teacher)
    else:
        documents = chain.from_iterable(job.documents.values())
        save_basis(fit_basis(teacher, documents, targets, config.batch_tokens), path)


def _copy_tail(source: Path, config: BuildConfig, teacher: Teacher) -> None:
    """Take the basis of another cache of this teacher, made for the same targets, byte for byte."""
    identity = Manifest.read(source).identity
    if identity.targets.tail != "lowrank":
        raise CacheError(
            f"--tail-from {source}: that cache has no lowrank tail but {identity.targets.tail!r}.\n"
            "Name a cache built with the same teacher and targets, or leave --tail-from out."
        )
    asked = replace(identity, targets=config.targets, **teacher.identity_fields)
    require_same_identity(
        identity, asked, f"--tail-from {source}",
        advice="Name a cache built with the same teacher and targets, or leave --tail-from out.",
    )  # fmt: skip
    load_codec(source, identity)  # its hash is the identity's
    with atomic_path(config.out / TAIL_FILE) as partial:
        partial.write_bytes((source / TAIL_FILE).read_bytes())


def _identity(
    config: BuildConfig, job: BuildJob, tokenizer, teacher: Teacher | None, tail_width: int = 0
) -> Identity:
    tail = config.out / TAIL_FILE
    return Identity(
        format_version=FORMAT_VERSION,
        teacher=config.teacher,
        revision=config.revision,
        num_tokens=num_token_ids(tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        dataset=config.dataset,
        dataset_sha256=job.dataset_sha256,
        template=config.recorded_template,
        texts=job.texts,
        max_length=config.max_length,
        long_documents=config.long_documents,
        targets=config.targets,
        tail_width=tail_width,
        tail_sha256=file_sha256(tail) if tail_width else "",
        dtype=dtype_name(resolve_dtype(config.dtype)),
        libraries=library_versions(),
        **(teacher.identity_fields if teacher else _NO_TEACHER),
    )


def _write_or_check_plan(
    config: BuildConfig, job: BuildJob, identity: Identity, found: Plan | None
) -> Plan:
    wanted = Plan(
        identity=identity,
        batch_tokens=config.batch_tokens,
        shards=job.shards,
        dropped=job.dropped_json(),
    )
    if found is None:
        wanted.write(config.out)
        return wanted
    require_same_identity(found.identity, identity, str(config.out))
    if found.batch_tokens != wanted.batch_tokens or found.shards != wanted.shards:
        raise CacheError(
            f"{config.out} was begun with other batches or shards (batch_tokens "
            f"{found.batch_tokens}, {len(found.shards)} shards; asked for {wanted.batch_tokens}, "
            f"{len(wanted.shards)}).\nGive the same --batch-tokens and --shard-tokens as then."
        )
    return found
