"""From a configuration to documents and shards: everything stage one decides before it computes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cache.config import BuildConfig
from cache.documents import Document, DroppedDocument, build_documents
from cache.identity import dataset_sha256
from cache.layout import ShardLayout
from cache.manifest import ShardPlan
from cache.problems import load_problems


@dataclass(frozen=True, kw_only=True, eq=False)
class BuildPlan:
    """Documents of every split and their shards."""

    documents: Mapping[str, Sequence[Document]]
    """By split; a sequence may read its documents as they are asked for."""
    dropped: dict[str, list[DroppedDocument]]
    dataset_sha256: dict[str, str]
    shards: tuple[ShardPlan, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_rows(self) -> int:
        """Rows of soft targets to compute."""
        return sum(shard.num_rows for shard in self.shards)

    def documents_of(self, shard: ShardPlan) -> Sequence[Document]:
        """The documents of one of its shards."""
        last = shard.first_document + shard.num_documents
        return self.documents[shard.split][shard.first_document : last]

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max((d.num_tokens for ds in self.documents.values() for d in ds), default=0)

    @property
    def largest_id(self) -> int:
        """Largest token id of all documents."""
        return max(
            (int(d.token_ids.max()) for ds in self.documents.values() for d in ds), default=0
        )

    def dropped_json(self) -> dict[str, list[dict]]:
        """The dropped problems, as the plan file records them."""
        return {split: [asdict(d) for d in dropped] for split, dropped in self.dropped.items()}

    def estimated_bytes(self, config: BuildConfig, vocab_size: int) -> int:
        """Size of the shards before compression."""
        layout = ShardLayout(vocab_size=vocab_size, targets=config.targets)
        return round(layout.raw_bytes_per_row() * self.num_rows)


def plan_build(config: BuildConfig, tokenizer) -> BuildPlan:
    """Load, tokenise and assign to shards; no model is touched.

    Raises:
        CacheError: a dataset cannot be read, or nothing is left of a split.
    """
    documents, dropped, hashes = {}, {}, {}
    shards: list[ShardPlan] = []
    for split in config.splits:
        problems = load_problems(config.dataset, split)[: config.limit]
        documents[split], dropped[split] = build_documents(
            problems,
            tokenizer,
            template=config.template,
            max_length=config.max_length,
            long_documents=config.long_documents,
        )
        hashes[split] = dataset_sha256(problems)
        shards += plan_shards(split, documents[split], config.shard_tokens)
    return BuildPlan(
        documents=documents, dropped=dropped, dataset_sha256=hashes, shards=tuple(shards)
    )


def plan_shards(split: str, documents: Sequence[Document], shard_tokens: int) -> list[ShardPlan]:
    """Consecutive documents, closed off once they reach `shard_tokens` tokens."""
    shards: list[ShardPlan] = []
    first = tokens = 0
    for index, document in enumerate(documents):
        tokens += document.num_tokens
        if tokens >= shard_tokens or index == len(documents) - 1:
            shards.append(
                ShardPlan(
                    path=f"{split}/shard-{len(shards):05d}.h5",
                    split=split,
                    first_document=first,
                    num_documents=index + 1 - first,
                    num_tokens=tokens,
                )
            )
            first, tokens = index + 1, 0
    return shards


def plan_batches(documents: Sequence[Document], batch_tokens: int) -> list[list[int]]:
    """Indices of documents, grouped by length so that a padded batch holds `batch_tokens`.

    A document longer than that gets a batch of its own.
    """
    order = sorted(range(len(documents)), key=lambda i: (documents[i].num_tokens, i))
    batches: list[list[int]] = []
    for index in order:
        longest = documents[index].num_tokens  # lengths ascend
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
