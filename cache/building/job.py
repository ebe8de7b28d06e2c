"""From a configuration to documents and shards: everything that is decided before a model runs."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cache.building.config import BuildConfig
from cache.building.mixture import load_mixture
from cache.building.read_corpus import spool_corpus
from cache.building.texts import texts_of, warn_of_template
from cache.data.build_conversations import build_conversations
from cache.data.conversations import Conversation
from cache.data.corpus import VALIDATION
from cache.data.documents import Document, DroppedDocument, build_documents
from cache.data.problems import Problem, dataset_sha256, load_problems
from cache.data.sft import read_conversations
from cache.data.spool import SPOOL_DIR, SpooledDocuments
from cache.data.templates import CHAT, chat_messages
from cache.data.text_format import TextFormat
from cache.errors import CacheError
from cache.machine.durable import json_sha256
from cache.storage.layout import ShardLayout
from cache.storage.manifest import CacheState, Plan, ShardRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class BuildJob:
    """What a build computes: the documents of every split, and their shards."""

    documents: Mapping[str, Sequence[Document]]
    """By split; a sequence may read its documents as they are asked for."""
    texts: TextFormat
    """How texts became tokens."""
    dropped: dict[str, list[DroppedDocument]]
    dataset_sha256: dict[str, str]
    origins: Mapping[str, Sequence[str]]
    """By split who wrote each document's solution; empty where documents are no solutions."""
    shards: tuple[ShardRecord, ...]
    longest: int
    """Tokens of the longest document."""
    largest_id: int
    """Largest token id of all documents; 0 where a finished cache makes it needless."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_rows(self) -> int:
        """Rows of soft targets to compute."""
        return sum(shard.num_rows for shard in self.shards)

    def documents_of(self, shard: ShardRecord) -> Sequence[Document]:
        """The documents of one of its shards."""
        last = shard.first_document + shard.num_documents
        return self.documents[shard.split][shard.first_document : last]

    def dropped_json(self) -> dict[str, list[dict]]:
        """The dropped problems, as the plan file records them."""
        return {split: [asdict(d) for d in dropped] for split, dropped in self.dropped.items()}

    def estimated_bytes(self, layout: ShardLayout) -> int:
        """Size of the shards before compression."""
        return sum(layout.raw_bytes(s.num_documents, s.num_tokens) for s in self.shards)


def read_job(config: BuildConfig, tokenizer, found: CacheState) -> BuildJob:
    """Load, tokenise and assign to shards; no model is touched.

    A corpus is written to a spool at `out`, and read no second time once its cache is complete.

    Args:
        found: how far `out` is.

    Raises:
        CacheError: a dataset cannot be read, a split has no document, or other texts were begun.
    """
    texts = texts_of(config, tokenizer)
    warn_of_template(config, tokenizer)
    if config.corpus is not None:
        if found.plan is not None:
            _require_same_corpus(found.plan, config)
        if found.complete is not None:
            return _finished_job(config, texts, found.complete.plan)
        return _corpus_job(config, texts, tokenizer)
    documents: dict[str, list[Document]] = {}
    dropped: dict[str, list[DroppedDocument]] = {}
    hashes: dict[str, str] = {}
    origins: dict[str, list[str]] = {}
    for split, built in _documents_by_split(config, texts, tokenizer):
        documents[split], dropped[split], hashes[split], wrote = built
        if wrote:
            origins[split] = [wrote[document.task_id] for document in documents[split]]
    shards = [
        shard
        for split in documents
        for shard in plan_shards(split, documents[split], config.shard_tokens)
    ]
    _require_documents(documents, dropped)
    everything = [document for split in documents.values() for document in split]
    return BuildJob(
        documents=documents,
        texts=texts,
        dropped=dropped,
        dataset_sha256=hashes,
        origins=origins,
        shards=tuple(shards),
        longest=max((d.num_tokens for d in everything), default=0),
        largest_id=max((int(d.token_ids.max()) for d in everything), default=0),
    )


Built = tuple[list[Document], list[DroppedDocument], str, Mapping[int, str]]
"""Documents of a split, what was left out, the hash of what they were made of, and of problems
who wrote the solution, by `task_id`."""


def _documents_by_split(
    config: BuildConfig, texts: TextFormat, tokenizer
) -> Iterator[tuple[str, Built]]:
    options: dict[str, Any] = {
        "template": config.template,
        "max_length": config.max_length,
        "long_documents": config.long_documents,
        "texts": texts,
    }
    for split in config.splits:
        if config.sft is not None:
            rows = read_conversations(config.sft, split, config.limit)
            for name, some in _held_out(rows, split, config.sft.validation_every):
                built = build_conversations(some, tokenizer, **options)
                yield name, (*built, json_sha256([asdict(row) for row in some]), {})
            continue
        problems = _problems(config, split)
        if config.template == CHAT:
            asked = [
                Conversation(task_id=problem.task_id, messages=chat_messages(problem))
                for problem in problems
            ]
            built = build_conversations(asked, tokenizer, **options)
        else:
            built = build_documents(problems, tokenizer, **options)
        wrote = {problem.task_id: problem.origin for problem in problems}
        yield split, (*built, dataset_sha256(problems), wrote)


def _problems(config: BuildConfig, split: str) -> list[Problem]:
    if config.mixture is not None:
        return load_mixture(config.mixture, split, config.limit)
    return load_problems(config.dataset, split)[: config.limit]


def _held_out(
    rows: list[Conversation], split: str, every: int | None
) -> Iterator[tuple[str, list[Conversation]]]:
    if every is None:
        yield split, rows
        return
    yield split, [row for number, row in enumerate(rows, 1) if number % every]
    yield VALIDATION, rows[every - 1 :: every]


def _require_documents(
    documents: Mapping[str, Sequence[Document]], dropped: Mapping[str, Sequence[DroppedDocument]]
) -> None:
    """Raise CacheError where a split has no document left."""
    for split in documents:
        if not documents[split]:
            reasons = "; ".join(f"{d.task_id}: {d.reason}" for d in dropped[split][:3])
            raise CacheError(
                f"No document of split {split!r} is left ({reasons}).\n"
                "Raise --max-length, or give --long-documents truncate."
            )


@contextmanager
def first_documents(
    config: BuildConfig, tokenizer, num_tokens: int | None = None
) -> Iterator[BuildJob]:
    """The job, for the block, without writing to `out`.

    Args:
        num_tokens: of a corpus, read at most so many tokens of each split.

    Raises:
        CacheError: as `read_job`.
    """
    if config.corpus is None:
        yield read_job(config, tokenizer, CacheState(directory=config.out))
        return
    most = [n for n in (config.corpus.max_tokens, num_tokens) if n is not None]
    corpus = replace(config.corpus, max_tokens=min(most, default=None))
    with tempfile.TemporaryDirectory() as out:
        config = replace(config, out=Path(out), corpus=corpus)
        yield read_job(config, tokenizer, CacheState(directory=config.out))


def _corpus_job(config: BuildConfig, texts: TextFormat, tokenizer) -> BuildJob:
    spool = spool_corpus(config, tokenizer)
    documents = {
        name: SpooledDocuments(
            spool.directory,
            name,
            num_tokens=split.num_tokens,
            max_length=config.max_length,
            file_tokens=spool.file_tokens,
            isolated=texts.isolated,
        )
        for name, split in spool.splits.items()
    }
    shards = [
        shard
        for name, split in spool.splits.items()
        for shard in _packed_shards(name, split.num_tokens, config.max_length, spool.file_tokens)
    ]
    return BuildJob(
        documents=documents,
        texts=texts,
        dropped={name: [] for name in documents},
        dataset_sha256={name: split.sha256 for name, split in spool.splits.items()},
        origins={},
        shards=tuple(shards),
        longest=min(config.max_length, max(s.num_tokens for s in spool.splits.values())),
        largest_id=max(split.largest_id for split in spool.splits.values()),
    )


def _finished_job(config: BuildConfig, texts: TextFormat, plan: Plan) -> BuildJob:
    """The job of a complete cache at `out`, whose documents are gone from the spool."""
    found = plan.identity
    return BuildJob(
        documents={
            name: SpooledDocuments(
                config.out / SPOOL_DIR,
                name,
                num_tokens=sum(s.num_tokens for s in plan.shards if s.split == name),
                max_length=config.max_length,
                file_tokens=config.max_length,
            )
            for name in found.dataset_sha256
        },
        texts=texts,
        dropped={name: [] for name in found.dataset_sha256},
        dataset_sha256=found.dataset_sha256,
        origins={},
        shards=plan.shards,
        longest=found.max_length,
        largest_id=0,
    )


def _require_same_corpus(found: Plan, config: BuildConfig) -> None:
    """Raise CacheError where a plan on disk is one of other texts."""
    there, asked = found.identity.dataset, config.dataset
    splits = list(found.identity.dataset_sha256)
    if there != asked or set(splits) != set(config.cached_splits):
        raise CacheError(
            f"{config.out} belongs to another cache:\n"
            f"  there: {there}; splits {', '.join(splits)}\n"
            f"  asked for: {asked}; splits {', '.join(config.cached_splits)}\n"
            "Give the options it was built with, or another --out."
        )


def _packed_shards(
    split: str, num_tokens: int, max_length: int, file_tokens: int
) -> Iterator[ShardRecord]:
    """The shards of a spooled split: one of each file."""
    for number, first in enumerate(range(0, num_tokens, file_tokens)):
        tokens = min(file_tokens, num_tokens - first)
        yield ShardRecord(
            path=f"{split}/shard-{number:05d}.h5",
            split=split,
            first_document=first // max_length,
            num_documents=-(-tokens // max_length),
            num_tokens=tokens,
        )


def plan_shards(split: str, documents: Sequence[Document], shard_tokens: int) -> list[ShardRecord]:
    """Consecutive documents, closed off once they reach `shard_tokens` tokens."""
    shards: list[ShardRecord] = []
    first = tokens = 0
    for index, document in enumerate(documents):
        tokens += document.num_tokens
        if tokens >= shard_tokens or index == len(documents) - 1:
            shards.append(
                ShardRecord(
                    path=f"{split}/shard-{len(shards):05d}.h5",
                    split=split,
                    first_document=first,
                    num_documents=index + 1 - first,
                    num_tokens=tokens,
                )
            )
            first, tokens = index + 1, 0
    return shards
