"""Checking a cache: every checksum, shape, range and offset."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.reading.open_shard import OpenShard
from cache.reading.tokenizer import unrecorded_files
from cache.storage.lengths import read_lengths
from cache.storage.manifest import Manifest, Plan, ShardRecord
from cache.storage.paths import LENGTHS_DIR
from cache.storage.shard import content_sha256
from cache.storage.tail_file import load_codec

BLOCK_ROWS = 4096


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
    faults += _length_faults(directory, manifest)
    for name in unrecorded_files(directory, manifest):
        faults.append(Fault(path=name, problem="the manifest does not name it: remove it"))
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
            yield Fault(
                path="plan.json",
                problem="it is not the plan of this manifest; where "
                "`cache extend` was stopped, its command, given again, mends that",
            )
    except CacheError as error:
        yield Fault(path="plan.json", problem=str(error))


def _length_faults(directory: Path, manifest: Manifest) -> Iterator[Fault]:
    by_split: dict[str, list[ShardRecord]] = {}
    for shard in manifest.plan.shards:
        by_split.setdefault(shard.split, []).append(shard)
    for split, shards in by_split.items():
        try:
            read_lengths(directory, manifest, split, shards)
        except CacheError as error:
            yield Fault(path=f"{LENGTHS_DIR}/{split}", problem=str(error))


def _shard_faults(directory: Path, manifest: Manifest, plan: ShardRecord) -> Iterator[Fault]:
    identity = manifest.identity
    try:
        codec = load_codec(directory, identity)
        shard = OpenShard(directory, plan, identity, codec.tables)
        with shard.file as file:
            if content_sha256(file.read_all()) != file.content_sha256:
                yield Fault(path=plan.path, problem="its content hash does not fit its content")
            for start in range(0, plan.num_rows, BLOCK_ROWS):
                rows = shard.row_range(start, min(start + BLOCK_ROWS, plan.num_rows))
                logprobs = codec.decode_logprobs(torch.from_numpy(rows["topk_logprobs"]))
                problem = next(row_problems(rows, logprobs.numpy(), identity.vocab_size), None)
                if problem is not None:
                    yield Fault(path=plan.path, problem=f"from row {start} on: {problem}")
                    return
    except CacheError as error:
        yield Fault(path=plan.path, problem=str(error))


def row_problems(
    rows: dict[str, np.ndarray], logprobs: np.ndarray, vocab_size: int
) -> Iterator[str]:
    """What is impossible in the values of some rows, in words.

    Args:
        rows: encoded rows.
        logprobs: (N, K) nats, -inf in entries that a row does not use.
        vocab_size: V.
    """
    for name in ("topk_ids", "gold_rank", "tail_ids"):
        if name in rows and int(rows[name].max()) >= vocab_size:
            yield f"{name} reach beyond the vocabulary of {vocab_size}"
    if np.isnan(logprobs).any() or np.isnan(rows["gold_logprob"]).any():
        yield "a logprob is NaN"
    elif (logprobs > 0).any() or (rows["gold_logprob"] > 0).any():
        yield "a logprob is above 0"
    elif (logprobs[:, 1:] > logprobs[:, :-1]).any():
        yield "top-k logprobs do not descend"
    elif (np.exp(logprobs.astype(np.float64)).sum(-1) > 1.02).any():
        yield "the top-k of a row has a mass above 1"
    # Entries that a row does not use repeat its first id; here they get ids of their own.
    unused = -1 - np.arange(logprobs.shape[1])
    ids = np.sort(np.where(np.isneginf(logprobs), unused, rows["topk_ids"]), axis=-1)
    if (ids[:, 1:] == ids[:, :-1]).any():
        yield "a row holds a token twice"
    entropy = rows["entropy"].astype(np.float32)
    if not ((entropy >= 0) & (entropy <= np.log(vocab_size) + 0.01)).all():
        yield f"an entropy is outside of 0 to log({vocab_size})"
