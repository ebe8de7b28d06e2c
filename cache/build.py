"""Stage one: run the teacher once over every document and leave a cache directory."""

import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cache.calibrate import fit_basis
from cache.config import BuildConfig
from cache.durable import atomic_path, file_sha256, make_directory, remove_partials
from cache.errors import CacheError
from cache.finish import finish_cache, open_shard_file
from cache.identity import (
    FORMAT_VERSION,
    Identity,
    library_versions,
    require_same_identity,
    tokenizer_sha256,
)
from cache.layout import ShardLayout
from cache.lock import writer_lock
from cache.manifest import (
    MANIFEST_NAME,
    PLAN_NAME,
    TOKENIZER_DIR,
    Manifest,
    Plan,
    ShardPlan,
)
from cache.plan import BuildPlan, plan_batches, plan_build
from cache.progress import BuildProgress
from cache.rows import compute_rows
from cache.shard import content_sha256
from cache.spool import remove_spool
from cache.tail_file import TAIL_FILE, head_of, load_codec, save_head
from cache.teacher import Teacher, load_causal_lm, load_tokenizer, resolve_dtype
from cache.writer import ShardAssembly, ShardWriter

_NOT_YET_KNOWN = ("teacher_sha256", "vocab_size", "tail_width", "tail_sha256")


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


def build_cache(
    config: BuildConfig, *, teacher: Teacher | None = None, like: Identity | None = None
) -> BuildSummary:
    """Build the cache at `config.out`, or go on where an earlier call was stopped.

    Every shard is computed on its own, so a build that was killed and resumed ends with the
    same bytes in every dataset as one that was not.

    Args:
        config: the job.
        teacher: its teacher where that is loaded already.
        like: identity of a cache that it must agree with in all but the documents.

    Raises:
        CacheError: bad input, an identity unlike the one to agree with, another cache in the
            way, a full disk, NaN logits. Nothing half-written is visible, and finished shards stay.
    """
    tokenizer = load_tokenizer(config.teacher, config.revision)
    plan = plan_build(config, tokenizer)
    require_documents(plan)
    early = _identity(config, plan, tokenizer, teacher=None)
    complete = _existing(config, early)
    if complete is not None:
        remove_spool(config.out)
        return _summary(complete, num_new_rows=0, seconds=0.0, already_complete=True)
    make_directory(config.out)
    with writer_lock(config.out):
        teacher = teacher or load_teacher(config, plan)
        tail_width = _write_tail(config, plan, teacher)
        identity = _identity(config, plan, tokenizer, teacher, tail_width)
        if like is not None:
            require_same_identity(like, identity, "the cache", ignore=("dataset_sha256",))
        disk_plan = _write_or_check_plan(config, plan, identity)
        tokenizer.save_pretrained(config.out / TOKENIZER_DIR)
        started = time.monotonic()
        num_new_rows = _compute_shards(config, plan, disk_plan, teacher)
        seconds = time.monotonic() - started
        cost = {
            "teacher_parameters": teacher.num_parameters,
            "teacher_rows": num_new_rows,
            "teacher_seconds": round(seconds, 3),
        }
        manifest = finish_cache(config.out, disk_plan, device=str(teacher.device), cost=cost)
        remove_spool(config.out)
    return _summary(manifest, num_new_rows=num_new_rows, seconds=seconds)


def load_teacher(config: BuildConfig, plan: BuildPlan) -> Teacher:
    """The teacher that a configuration names.

    Raises:
        CacheError: it cannot be loaded, or the planned documents do not fit it.
    """
    model, _ = load_causal_lm(
        config.teacher,
        revision=config.revision,
        dtype=resolve_dtype(config.dtype),
        device_map=config.device_map,
    )
    teacher = Teacher(model)
    require_fit(teacher, plan, config)
    return teacher


def _compute_shards(config: BuildConfig, plan: BuildPlan, disk_plan: Plan, teacher: Teacher) -> int:
    """Compute the shards that are missing; the number of rows computed."""
    remove_partials(config.out)
    layout = ShardLayout.of(disk_plan.identity)
    missing = [s for s in disk_plan.shards if not is_intact(config.out, s, disk_plan.identity)]
    num_new_rows = sum(shard.num_rows for shard in missing)
    codec = load_codec(config.out, disk_plan.identity).to(teacher.head.weight.device)
    writer = ShardWriter(disk_plan.identity.shard_sha256)
    try:
        with BuildProgress(total=plan.num_rows, done=plan.num_rows - num_new_rows) as progress:
            for shard in missing:
                documents = plan.documents_of(shard)
                assembly = ShardAssembly(documents, layout, codec.tables)
                for indices in plan_batches(documents, config.batch_tokens):
                    batch = [documents[i] for i in indices]
                    writer.add(assembly, indices, compute_rows(teacher, batch, codec))
                    progress.advance(sum(d.num_rows for d in batch))
                writer.write(config.out / shard.path, assembly)
                progress.shard_done(config.out / shard.path, shard.num_rows)
            writer.finish()
    finally:
        writer.close()
    return num_new_rows


def is_intact(out: Path, shard: ShardPlan, identity: Identity) -> bool:
    """Whether an earlier run left this shard whole; its content is read and hashed."""
    try:
        with open_shard_file(out, shard, identity) as file:
            return content_sha256(file.read_all()) == file.content_sha256
    except CacheError:
        return False


def _write_tail(config: BuildConfig, plan: BuildPlan, teacher: Teacher) -> int:
    """Make tail.safetensors where the tail needs it and it is not there; the tail's width.

    A basis is fitted on the first documents only, so that it never depends on how far a build
    came before it was stopped.
    """
    path, targets = config.out / TAIL_FILE, config.targets
    if targets.tail == "hidden":
        if not path.is_file():
            save_head(head_of(teacher.model), path)
        return int(teacher.head.weight.shape[1])
    if targets.tail != "lowrank":
        return 0
    rank = min(targets.tail_rank, int(teacher.head.weight.shape[1]))
    if not path.is_file() and config.tail_from is not None:
        _copy_tail(config.tail_from, path, teacher)
    if not path.is_file():
        documents = chain.from_iterable(plan.documents.values())
        fit_basis(teacher, documents, targets, config.batch_tokens).save(path)
    return rank


def _copy_tail(source: Path, path: Path, teacher: Teacher) -> None:
    """Take the basis of another cache of this teacher, byte for byte."""
    identity = Manifest.read(source).identity
    if identity.targets.tail != "lowrank" or identity.teacher_sha256 != teacher.weights_sha256():
        raise CacheError(
            f"--tail-from {source}: that cache has no lowrank tail of this teacher (tail "
            f"{identity.targets.tail}, teacher {identity.teacher}).\n"
            "Name a cache built with the same teacher, or leave --tail-from out."
        )
    load_codec(source, identity)  # its hash is the identity's
    with atomic_path(path) as partial:
        partial.write_bytes((source / TAIL_FILE).read_bytes())


def _identity(
    config: BuildConfig, plan: BuildPlan, tokenizer, teacher: Teacher | None, tail_width: int = 0
) -> Identity:
    tail = config.out / TAIL_FILE
    return Identity(
        format_version=FORMAT_VERSION,
        teacher=config.teacher,
        revision=config.revision,
        teacher_sha256=teacher.weights_sha256() if teacher else "",
        vocab_size=teacher.vocab_size if teacher else 0,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        dataset=config.dataset,
        dataset_sha256=plan.dataset_sha256,
        template=config.template,
        max_length=config.max_length,
        long_documents=config.long_documents,
        targets=config.targets,
        tail_width=tail_width,
        tail_sha256=file_sha256(tail) if tail_width else "",
        dtype=str(resolve_dtype(config.dtype)).removeprefix("torch."),
        libraries=library_versions(),
    )


def require_documents(plan: BuildPlan) -> None:
    """Raise CacheError where a split has no document left."""
    for split, documents in plan.documents.items():
        if not documents:
            reasons = "; ".join(f"{d.task_id}: {d.reason}" for d in plan.dropped[split][:3])
            raise CacheError(
                f"No document of split {split!r} is left ({reasons}).\n"
                "Raise --max-length, or give --long-documents truncate."
            )


def require_fit(teacher: Teacher, plan: BuildPlan, config: BuildConfig) -> None:
    """Raise CacheError where documents hold ids or positions that the teacher does not have."""
    if plan.largest_id >= teacher.vocab_size:
        raise CacheError(
            f"The tokenizer of {config.teacher} gives the token id {plan.largest_id}, but the "
            f"teacher's head has only {teacher.vocab_size} rows.\n"
            "Tokenizer and weights do not belong together; take both from one source."
        )
    limit = teacher.max_positions
    if limit is not None and plan.longest > limit:
        raise CacheError(
            f"The longest document has {plan.longest} tokens, the teacher takes {limit}.\n"
            f"Give --max-length {limit}."
        )


def _existing(config: BuildConfig, early: Identity) -> Manifest | None:
    """The finished cache at `out`, if it is the one asked for; None if there is still work."""
    if (config.out / MANIFEST_NAME).exists():
        manifest = Manifest.read(config.out)
        require_same_identity(manifest.identity, early, str(config.out), ignore=_NOT_YET_KNOWN)
        if all((config.out / s.path).is_file() for s in manifest.plan.shards):
            return manifest
        (config.out / MANIFEST_NAME).unlink()
    if (config.out / PLAN_NAME).exists():
        found = Plan.read(config.out).identity
        require_same_identity(found, early, str(config.out), ignore=_NOT_YET_KNOWN)
    return None


def _write_or_check_plan(config: BuildConfig, plan: BuildPlan, identity: Identity) -> Plan:
    wanted = Plan(
        identity=identity,
        batch_tokens=config.batch_tokens,
        shards=plan.shards,
        dropped=plan.dropped_json(),
    )
    if not (config.out / PLAN_NAME).exists():
        wanted.write(config.out)
        return wanted
    found = Plan.read(config.out)
    require_same_identity(found.identity, identity, str(config.out))
    if found.batch_tokens != wanted.batch_tokens or found.shards != wanted.shards:
        raise CacheError(
            f"{config.out} was begun with other batches or shards (batch_tokens "
            f"{found.batch_tokens}, {len(found.shards)} shards; asked for {wanted.batch_tokens}, "
            f"{len(wanted.shards)}).\nGive the same --batch-tokens and --shard-tokens as then."
        )
    return found


def _summary(
    manifest: Manifest, *, num_new_rows: int, seconds: float, already_complete: bool = False
) -> BuildSummary:
    shards = manifest.plan.shards
    return BuildSummary(
        manifest=manifest,
        num_documents=sum(shard.num_documents for shard in shards),
        num_rows=sum(shard.num_rows for shard in shards),
        num_new_rows=num_new_rows,
        num_bytes=manifest.num_bytes,
        row_bytes=sum(f.num_bytes for f in manifest.files if f.path in {s.path for s in shards}),
        seconds=seconds,
        already_complete=already_complete,
    )
