"""Checking a cache: every checksum, shape, range and offset."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.durable import file_sha256
from cache.errors import CacheError
from cache.manifest import Manifest, Plan, ShardPlan
from cache.shard import ShardFile, ShardLayout, content_sha256, require_documents


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong with a file of a cache."""

    path: str
    problem: str


def verify_cache(
    directory: Path, on_file: Callable[[str], None] = lambda path: None
) -> list[Fault]:
    """Every fault found; empty for a sound cache.

    Args:
        directory: the cache.
        on_file: called with each file's path before it is read.

    Raises:
        CacheError: there is no manifest to check against, or it is itself damaged.
    """
    manifest = Manifest.read(directory)
    faults = list(_plan_faults(directory, manifest))
    shards = {shard.path: shard for shard in manifest.plan.shards}
    recorded = {file.path for file in manifest.files}
    for name in sorted(set(shards) - recorded):
        faults.append(Fault(path=name, problem="the manifest has no checksum of this shard"))
    for file in manifest.files:
        on_file(file.path)
        path = directory / file.path
        if not path.is_file():
            faults.append(Fault(path=file.path, problem="missing"))
        elif path.stat().st_size != file.num_bytes:
            problem = f"{path.stat().st_size} bytes, the manifest promises {file.num_bytes}"
            faults.append(Fault(path=file.path, problem=problem))
        elif file_sha256(path) != file.sha256:
            faults.append(Fault(path=file.path, problem="its sha256 is not the manifest's"))
        elif file.path in shards:
            faults += _shard_faults(directory, manifest, shards[file.path])
    return faults


def _plan_faults(directory: Path, manifest: Manifest) -> Iterator[Fault]:
    try:
        if Plan.read(directory) != manifest.plan:
            yield Fault(path="plan.json", problem="it is not the plan of this manifest")
    except CacheError as error:
        yield Fault(path="plan.json", problem=str(error))
    next_document: dict[str, int] = {}
    for shard in manifest.plan.shards:
        if shard.first_document != next_document.get(shard.split, 0):
            yield Fault(path=shard.path, problem="its documents do not follow the last shard's")
        next_document[shard.split] = shard.first_document + shard.num_documents


def _shard_faults(directory: Path, manifest: Manifest, shard: ShardPlan) -> Iterator[Fault]:
    identity = manifest.identity
    try:
        with ShardFile(
            directory / shard.path,
            ShardLayout.of(identity),
            num_documents=shard.num_documents,
            num_tokens=shard.num_tokens,
            identity_sha256=identity.sha256,
        ) as file:
            arrays = file.read_all()
            if content_sha256(arrays) != file.content_sha256:
                yield Fault(path=shard.path, problem="its content hash does not fit its content")
            require_documents(
                arrays["token_offsets"], arrays["prompt_lengths"], shard.num_tokens, shard.path
            )
    except CacheError as error:
        yield Fault(path=shard.path, problem=str(error))
        return
    for problem in range_problems(arrays, identity.vocab_size):
        yield Fault(path=shard.path, problem=problem)


def range_problems(arrays: dict[str, np.ndarray], vocab_size: int) -> Iterator[str]:
    """What is impossible in the values of a shard, in words."""
    for name in ("token_ids", "topk_ids", "gold_rank"):
        if arrays[name].size and int(arrays[name].max()) >= vocab_size:
            yield f"{name} reach beyond the vocabulary of {vocab_size}"
    logprobs = arrays["topk_logprobs"].astype(np.float32)
    if np.isnan(logprobs).any() or np.isnan(arrays["gold_logprob"]).any():
        yield "a logprob is NaN"
    elif (logprobs > 0).any() or (arrays["gold_logprob"] > 0).any():
        yield "a logprob is above 0"
    elif (logprobs[:, 1:] > logprobs[:, :-1]).any():
        yield "top-k logprobs do not descend"
    elif (np.exp(logprobs.astype(np.float64)).sum(-1) > 1.01).any():
        yield "the top-k of a row has a mass above 1"
    ids = np.sort(arrays["topk_ids"], axis=-1)
    if (ids[:, 1:] == ids[:, :-1]).any():
        yield "a row holds a token twice"
    entropy = arrays["entropy"].astype(np.float32)
    if not ((entropy >= 0) & (entropy <= np.log(vocab_size) + 0.01)).all():
        yield f"an entropy is outside of 0 to log({vocab_size})"
