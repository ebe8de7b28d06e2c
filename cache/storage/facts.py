"""What a cache is and how much it holds, in words and numbers."""

from dataclasses import dataclass, replace

from cache.storage.identity import Identity
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """How much a split holds."""

    split: str
    num_shards: int
    num_documents: int
    num_tokens: int
    num_bytes: int


def _beginning(identity: Identity) -> str:
    ids = ", ".join(map(str, identity.texts.prefix_ids))
    return f"texts begin with the ids {ids}" if ids else "nothing before a text"


def _vocabulary(identity: Identity) -> str:
    if identity.num_tokens >= identity.vocab_size:
        return f"{identity.vocab_size:,}"
    return f"{identity.num_tokens:,} tokens, {identity.vocab_size:,} rows of the head"


def _targets(identity: Identity) -> TargetFormat:
    """What is stored, with the rank that it has: a teacher's width bounds what was asked for."""
    if identity.targets.tail != "lowrank":
        return identity.targets
    return replace(identity.targets, tail_rank=identity.tail_width)


def identity_facts(identity: Identity) -> dict[str, str]:
    """What a cache is, in words, by name."""
    return {
        "identity": identity.sha256,
        "teacher": f"{identity.teacher}, revision {identity.revision or 'as found'}",
        "teacher weights": identity.teacher_sha256,
        "vocabulary": _vocabulary(identity),
        "dataset": identity.dataset,
        "template": f"{identity.template}, up to {identity.max_length} tokens",
        "tokens": identity.texts.words(_beginning(identity)),
        "targets": f"{_targets(identity).words()}, teacher in {identity.dtype}",
        "format": f"version {identity.format_version}",
    }


def split_sizes(manifest: Manifest) -> list[SplitSize]:
    """Size of each split."""
    sizes = {file.path: file.num_bytes for file in manifest.files}
    rows = []
    for split in dict.fromkeys(shard.split for shard in manifest.plan.shards):
        shards = [s for s in manifest.plan.shards if s.split == split]
        rows.append(
            SplitSize(
                split=split,
                num_shards=len(shards),
                num_documents=sum(s.num_documents for s in shards),
                num_tokens=sum(s.num_tokens for s in shards),
                num_bytes=sum(sizes[s.path] for s in shards),
            )
        )
    return rows
