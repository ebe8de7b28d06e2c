"""More documents for a complete cache: other splits, or other problems of a split it has.

The extension is a cache of its own, built in a folder of the first one by the same teacher with
the same settings. Once that is complete its shards are added and a new manifest takes the place
of the old one. Shards never change, so readers notice nothing until they open it anew.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import TEMPLATE, Corpus
from cache.data.problems import load_problems
from cache.data.sft import Sft
from cache.data.templates import CHAT, CONVERSATIONS, PAIR
from cache.data.text_range import TextRange, first_overlap
from cache.errors import CacheError
from cache.machine.durable import make_directory, read_sealed_json, write_sealed_json
from cache.machine.lock import writer_lock
from cache.machine.precision import precision_named
from cache.machine.progress import BuildProgress
from cache.reading.tokenizer import require_recorded_tokenizer
from cache.storage.created import merged_created, ranges_of
from cache.storage.finish import finish_cache
from cache.storage.identity import FORMAT_VERSION
from cache.storage.manifest import MANIFEST_NAME, PLAN_NAME, Manifest, Plan, state_of
from cache.tools.merge import (
    MergeStep,
    merged_plan,
    plan_steps,
    require_distinct_documents,
    write_step,
)
from cache.tools.source import Source

EXTENSION_DIR = "extension"
ASKED = "asked.json"
"""In that folder: the options that it was begun with."""
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
    ended = _take_up(directory, config)
    if ended is not None:
        return ended
    _require_new(directory, found, config)
    make_directory(config.out)
    write_sealed_json(config.out / ASKED, _asked(config))
    try:
        build_cache(config, like=found.identity)
    except CacheError:
        if not _has_rows(config.out):  # refused, and nothing to go on from
            shutil.rmtree(config.out, ignore_errors=True)
        raise
    with writer_lock(directory):
        return _adopt(directory)


def _take_up(directory: Path, config: BuildConfig) -> Extension | None:
    """Settle what an earlier call left: None if there is work to do, else what that call added.

    Raises:
        CacheError: the teacher ran for another extension, which is not complete.
    """
    if not config.out.is_dir():
        return None
    is_same = (config.out / ASKED).is_file() and read_sealed_json(config.out / ASKED) == _asked(
        config
    )
    with writer_lock(directory):
        ended = _end(directory)
    if ended is not None:
        return ended if is_same else None
    if is_same:
        return None
    if not any((config.out / name).is_file() for name in (ASKED, PLAN_NAME, MANIFEST_NAME)):
        raise CacheError(
            f"{config.out} is where documents to add are built, and holds something else.\n"
            "Move that elsewhere, or remove it."
        )
    with writer_lock(config.out):  # nobody is at it
        if _has_rows(config.out):
            raise CacheError(
                f"{config.out} holds an extension that was begun with other options and is not "
                "finished.\nGive its command again to finish it, or remove that folder to drop it."
            )
    shutil.rmtree(config.out)
    return None


def _asked(config: BuildConfig) -> dict[str, Any]:
    """What documents were asked for, as JSON has it; where the teacher stands does not matter."""
    content = json.loads(json.dumps(asdict(config), default=str))
    return {k: v for k, v in content.items() if k not in ("out", "teacher", "device_map")}


def _has_rows(extension: Path) -> bool:
    return next(extension.rglob("*.h5"), None) is not None


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


def _require_new(directory: Path, found: Manifest, config: BuildConfig) -> None:
    """Raise CacheError where what is to be added is there already."""
    if config.corpus is not None:
        _require_new_texts(found, config, config.corpus)
    there = [split for split in config.splits if split in found.identity.dataset_sha256]
    if there and config.dataset == found.identity.dataset:
        raise CacheError(
            f"The cache holds {', '.join(there)} of {config.dataset} already.\n"
            "Name another --split, or give --dataset other problems."
        )
    if config.corpus is None and config.sft is None:
        _require_new_problems(Source(directory=directory, manifest=found), config)


def _require_new_problems(main: Source, config: BuildConfig) -> None:
    held: dict[str, set[int]] = {}
    for shard in main.manifest.plan.shards:
        if shard.split in config.splits:
            with main.open(shard) as file:
                held.setdefault(shard.split, set()).update(file.read("task_ids").tolist())
    for split, task_ids in held.items():
        for problem in load_problems(config.dataset, split)[: config.limit]:
            if problem.task_id in task_ids:
                raise CacheError(
                    f"Split {split!r} would hold task_id {problem.task_id} twice: it is in "
                    f"{main.directory} and in {config.dataset}.\n"
                    "Give --dataset other problems."
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
    try:
        require_distinct_documents([main, added])
    except CacheError:
        shutil.rmtree(added.directory)  # it can never be added
        raise
    steps = plan_steps([main, added])
    plan = merged_plan([main, added], steps)
    _add_shards(directory, plan, steps, added)
    record = merged_created([main.manifest, added.manifest])
    before = list(main.manifest.created.get(EXTENSIONS, []))
    created = {**record, EXTENSIONS: [*before, added.identity.sha256]}
    device = str(main.manifest.created.get("device", ""))
    _finish(directory, plan, main, device=device, created=created)
    ended = _end(directory)
    assert ended is not None
    return ended


def _end(directory: Path) -> Extension | None:
    """Remove an extension whose shards the cache's manifest names; None if it does not.

    Its own manifest goes last: stopped anywhere, another call still knows that it was added.
    """
    manifest, extension = Manifest.read(directory), directory / EXTENSION_DIR
    added = state_of(extension).manifest
    if added is None or added.identity.sha256 not in manifest.created.get(EXTENSIONS, []):
        return None
    manifest.plan.write(directory)  # the call may have been stopped right before
    for path in extension.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (MANIFEST_NAME, ASKED):
            path.unlink(missing_ok=True)
    shutil.rmtree(extension)
    shards = added.plan.shards
    return Extension(
        manifest=manifest,
        num_documents=sum(shard.num_documents for shard in shards),
        num_rows=sum(shard.num_rows for shard in shards),
    )


def _finish(directory: Path, plan: Plan, main: Source, *, device: str, created: dict) -> None:
    own = {shard.path for shard in main.manifest.plan.shards}
    known = [record for record in main.manifest.files if record.path in own]
    finish_cache(directory, plan, device=device, record=created, known=known)


def _add_shards(directory: Path, plan: Plan, steps: list[MergeStep], added: Source) -> None:
    new = [step for step in steps if step.source is added]
    with BuildProgress(total=sum(step.shard.num_rows for step in new), done=0) as progress:
        for step in new:
            write_step(directory, step, plan.identity)
            progress.advance(step.shard.num_rows)
