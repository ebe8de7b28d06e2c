"""More documents for a complete cache: other splits, or other problems of a split it has.

The extension is a cache of its own, built in a folder of the first one by the same teacher with
the same settings. Once that is complete its shards are added and a new manifest takes the place
of the old one. Shards never change, so readers notice nothing until they open it anew.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import TEMPLATE, Corpus
from cache.data.sft import Sft
from cache.data.templates import CHAT, CONVERSATIONS, PAIR
from cache.data.text_range import TextRange, first_overlap
from cache.errors import CacheError
from cache.machine.lock import writer_lock
from cache.machine.precision import precision_named
from cache.machine.progress import BuildProgress
from cache.reading.tokenizer import require_recorded_tokenizer
from cache.storage.created import merged_created, ranges_of
from cache.storage.finish import finish_cache
from cache.storage.identity import FORMAT_VERSION
from cache.storage.manifest import Manifest, Plan
from cache.tools.merge import (
    MergeStep,
    merged_plan,
    plan_steps,
    require_distinct_documents,
    write_step,
)
from cache.tools.source import Source

EXTENSION_DIR = "extension"
EXTENSIONS = "extensions"
"""In `created`: the identities whose documents were added."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """What was added to a cache."""

    manifest: Manifest
    num_documents: int
    num_rows: int


def extend_cache(
    directory: Path,
    *,
    splits: tuple[str, ...],
    dataset: str | None = None,
    corpus: Corpus | None = None,
    sft: Sft | None = None,
    teacher: str | None = None,
    device_map: str = BuildConfig.device_map,
    shard_tokens: int = BuildConfig.shard_tokens,
    limit: int | None = None,
) -> Extension:
    """Run the teacher over more documents and add them to the cache at `directory`.

    Stopped anywhere, the same call goes on; until its end the cache is as it was.

    Args:
        splits: to add, or to add to.
        dataset: hub id or JSON-lines file; None takes the cache's own.
        corpus: texts to add to a cache of texts.
        sft: rows to add to a cache of conversations or pairs.
        teacher: where the teacher is now; None takes the cache's name of it.
        shard_tokens: tokens of a new shard.
        limit: only the first problems, or texts, of each split.

    Raises:
        CacheError: the cache is incomplete or of an older format; the teacher, its tokenizer or
            the libraries are not those of the cache; a document is in the cache already.
    """
    found = Manifest.read(directory)
    if found.identity.format_version != FORMAT_VERSION:
        raise CacheError(
            f"{directory} has format version {found.identity.format_version}; only a cache of "
            f"version {FORMAT_VERSION} can be extended.\n"
            f"Bring it up to date first: python cli.py cache merge NEW {directory}"
        )
    _require_same_kind(directory, found, corpus, sft)
    require_recorded_tokenizer(directory, found)  # its files are recorded again
    config = _config(
        directory, found, splits=splits, dataset=dataset, corpus=corpus, sft=sft,
        teacher=teacher, device_map=device_map, shard_tokens=shard_tokens, limit=limit,
    )  # fmt: skip
    _require_new(found, config)
    build_cache(config, like=found.identity)
    with writer_lock(directory):
        return _adopt(directory)


def _require_same_kind(
    directory: Path, found: Manifest, corpus: Corpus | None, sft: Sft | None
) -> None:
    identity = found.identity
    if corpus is None and identity.template == TEMPLATE:
        raise CacheError(
            f"{directory} holds the texts of a corpus ({identity.dataset}).\n"
            "Name the texts to add with --dataset and --text-field."
        )
    if corpus is not None and identity.template != TEMPLATE:
        raise CacheError(
            f"{directory} holds problems in the template {identity.template!r}, and a corpus "
            "has none.\nLeave --text-field out, or build another cache with cache-teacher."
        )
    is_sft = identity.template in (CONVERSATIONS, PAIR)
    if is_sft and sft is None:
        raise CacheError(
            f"{directory} holds rows of supervised data ({identity.dataset}).\n"
            "Name the rows to add with --sft --dataset."
        )
    if sft is not None and not is_sft:
        raise CacheError(
            f"{directory} holds problems in the template {identity.template!r}, not conversations."
            "\nLeave --sft out, or build another cache with cache-teacher --sft."
        )


def _config(directory: Path, found: Manifest, **given) -> BuildConfig:
    identity = found.identity
    return BuildConfig(
        out=directory / EXTENSION_DIR,
        revision=identity.revision,
        template=CHAT if identity.template == CONVERSATIONS else identity.template,
        max_length=identity.max_length,
        long_documents=identity.long_documents,
        bos="always" if identity.texts.prefix_ids else "never",
        parse_special=identity.texts.parse_special,
        isolate=identity.texts.isolated,
        targets=identity.targets,
        tail_from=directory if identity.targets.tail == "lowrank" else None,
        dtype=precision_named(identity.dtype),
        batch_tokens=found.plan.batch_tokens,
        **given
        | {"dataset": given["dataset"] or identity.dataset}
        | {"teacher": given["teacher"] or identity.teacher},
    )


def _require_new(found: Manifest, config: BuildConfig) -> None:
    """Raise CacheError where a split to add is there already and nothing else was named."""
    if config.out.exists():  # begun by an earlier call
        return
    if config.corpus is not None:
        _require_new_texts(found, config, config.corpus)
    there = [split for split in config.splits if split in found.identity.dataset_sha256]
    if there and config.dataset == found.identity.dataset:
        raise CacheError(
            f"The cache holds {', '.join(there)} of {config.dataset} already.\n"
            "Name another --split, or give --dataset other problems."
        )


def _require_new_texts(found: Manifest, config: BuildConfig, corpus: Corpus) -> None:
    end = None if config.limit is None else corpus.skip + config.limit
    new = [
        TextRange(stream=corpus.stream_words, split=split, first=corpus.skip, end=end)
        for split in config.splits
    ]
    there = first_overlap(ranges_of(found), new)
    if there is not None:
        raise CacheError(
            f"The cache holds {there.words()} of this corpus already.\n"
            f"To go on after them, give --skip {there.end}."
        )


def _adopt(directory: Path) -> Extension:
    """Take over the shards of the complete extension, then remove it."""
    main = Source(directory=directory, manifest=Manifest.read(directory))
    added = Source(
        directory=directory / EXTENSION_DIR, manifest=Manifest.read(directory / EXTENSION_DIR)
    )
    shards = added.manifest.plan.shards
    before = list(main.manifest.created.get(EXTENSIONS, []))
    manifest = main.manifest
    if added.identity.sha256 not in before:  # else an earlier call was stopped right after
        require_distinct_documents([main, added])
        steps = plan_steps([main, added])
        plan = merged_plan([main, added], steps)
        _add_shards(directory, plan, steps, added)
        record = merged_created([main.manifest, added.manifest])
        created = {**record, EXTENSIONS: [*before, added.identity.sha256]}
        device = str(main.manifest.created.get("device", ""))
        manifest = _finish(directory, plan, main, device=device, created=created)
    shutil.rmtree(added.directory)
    return Extension(
        manifest=manifest,
        num_documents=sum(shard.num_documents for shard in shards),
        num_rows=sum(shard.num_rows for shard in shards),
    )


def _finish(directory: Path, plan: Plan, main: Source, *, device: str, created: dict) -> Manifest:
    own = {shard.path for shard in main.manifest.plan.shards}
    known = [record for record in main.manifest.files if record.path in own]
    manifest = finish_cache(directory, plan, device=device, record=created, known=known)
    plan.write(directory)
    return manifest


def _add_shards(directory: Path, plan: Plan, steps: list[MergeStep], added: Source) -> None:
    new = [step for step in steps if step.source is added]
    with BuildProgress(total=sum(step.shard.num_rows for step in new), done=0) as progress:
        for step in new:
            write_step(directory, step, plan.identity)
            progress.advance(step.shard.num_rows)
