"""Caches of random rows, written without a teacher: for measuring what only reads them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cache.data.text_format import TextFormat
from cache.machine.durable import file_sha256
from cache.storage.finish import finish_cache
from cache.storage.identity import FORMAT_VERSION, Identity
from cache.storage.layout import ShardLayout
from cache.storage.manifest import FileRecord, Manifest, Plan, ShardRecord
from cache.storage.packing import GROUP_ROWS, pack_rows
from cache.storage.shard import derived_marks, write_shard
from cache.storage.tail_file import TAIL_FILE, save_basis, save_head
from cache.targets.basis import BasisFit
from cache.targets.fidelity import NUM_MEASURES
from cache.targets.format import LogitMap, TargetFormat
from cache.targets.row_codec import OutputHead, RowCodec

SLICE_ROWS = 256


def mbpp_like_lengths(num_tokens: int, seed: int = 0) -> np.ndarray:
    """Lengths of documents of about so many tokens: log-normal, as MBPP's are (mean 190)."""
    drawn = np.random.default_rng(seed).lognormal(5.17, 0.39, num_tokens // 100)
    lengths = drawn.astype(np.int64).clip(30, 512)
    return lengths[: int(np.searchsorted(lengths.cumsum(), num_tokens)) + 1]


def random_rows(targets: TargetFormat, *, vocab_size: int, width: int, folder: Path):
    """A group of encoded rows as arrays, and their codec; its tail file goes to `folder`."""
    torch.manual_seed(0)
    weight = torch.randn(vocab_size, width) / width**0.5
    hidden = torch.randn(GROUP_ROWS, width) * torch.linspace(6, 0.5, width)
    basis = head = None
    if targets.tail == "lowrank":
        fit = BasisFit(weight, None)
        logits = hidden[:2048] @ weight.T
        fit.add(hidden[:2048], logits, logits.topk(targets.top_k).indices)
        basis = fit.finish(min(targets.tail_rank, width), targets.tail_bytes)
        save_basis(basis, folder / TAIL_FILE)
    if targets.tail == "hidden":
        head = OutputHead(weight=weight, bias=torch.zeros(vocab_size))
        save_head(head, folder / TAIL_FILE)
    codec = RowCodec(targets, vocab_size, basis=basis, head=head)
    gold = torch.zeros(SLICE_ROWS, dtype=torch.int64)
    slices = [codec.encode(part @ weight.T, part, gold) for part in hidden.split(SLICE_ROWS)]
    return {name: torch.cat([s[name] for s in slices]).numpy() for name in slices[0]}, codec


def write_made_cache(
    folder: Path, targets: TargetFormat, *, num_tokens: int, vocab_size: int, width: int
) -> None:
    """A complete cache whose rows repeat one group of random ones, in shards of 32,768 tokens."""
    folder.mkdir(parents=True)
    rows, codec = random_rows(targets, vocab_size=vocab_size, width=width, folder=folder)
    tail_file = folder / TAIL_FILE
    identity = Identity(
        texts=TextFormat(),
        logits=LogitMap(),
        format_version=FORMAT_VERSION, teacher="random", revision=None, teacher_sha256="",
        vocab_size=vocab_size, num_tokens=vocab_size, tokenizer_sha256="", dataset="random",
        dataset_sha256={},
        template="instruction", max_length=512, long_documents="drop", targets=targets,
        tail_width=codec.tail_width,
        tail_sha256=file_sha256(tail_file) if tail_file.is_file() else "",
        dtype="fp32", libraries={},
    )  # fmt: skip
    layout, shards, first = ShardLayout.of(identity), [], 0
    lengths = mbpp_like_lengths(num_tokens)
    for number, own in enumerate(np.split(lengths, _shard_starts(lengths))):
        plan = ShardRecord(
            path=f"train/shard-{number:05d}.h5", split="train", first_document=first,
            num_documents=len(own), num_tokens=int(own.sum()),
        )  # fmt: skip
        repeated = {
            name: np.resize(array, (plan.num_rows, *array.shape[1:])).astype(
                layout.row_fields()[name][0]
            )
            for name, array in rows.items()
        }
        packed = pack_rows(repeated, ragged=layout.ragged, tables=codec.tables)
        documents = {
            "task_ids": np.arange(first, first + len(own), dtype="<i8"),
            "prompt_lengths": (own // 2).astype("<i4"),
            "token_marks": derived_marks(np.concatenate([[0], np.cumsum(own)]), own // 2),
            "token_offsets": np.concatenate([[0], own.cumsum()]).astype("<i8"),
            "token_ids": np.ones(plan.num_tokens, dtype=layout.id_dtype),
            "fidelity": np.zeros((0, NUM_MEASURES), dtype="<f2"),
        }
        (folder / plan.path).parent.mkdir(exist_ok=True)
        write_shard(folder / plan.path, packed | documents, identity_sha256=identity.shard_sha256)
        shards.append(plan)
        first += len(own)
    finish_cache(
        folder,
        Plan(identity=identity, batch_tokens=8192, shards=tuple(shards), dropped={}),
        device="cpu",
    )


def repeat_cache(small: Path, large: Path, num_rows: int) -> None:
    """Write a cache of at least so many rows whose shards are links to those of a small one."""
    manifest = Manifest.read(small)
    originals = {shard.path: shard for shard in manifest.plan.shards}
    records = {record.path: record for record in manifest.files}
    shards: list[ShardRecord] = []
    known: list[FileRecord] = []
    first = rows = 0
    (large / "train").mkdir(parents=True)
    while rows < num_rows:
        source = manifest.plan.shards[len(shards) % len(originals)]
        path = f"train/shard-{len(shards):05d}.h5"
        os.link(small / source.path, large / path)
        shards.append(replace(source, path=path, first_document=first))
        known.append(replace(records[source.path], path=path))
        first += source.num_documents
        rows += source.num_rows
    os.link(small / TAIL_FILE, large / TAIL_FILE)
    plan = replace(manifest.plan, shards=tuple(shards))
    plan.write(large)
    finish_cache(large, plan, device="cpu", known=known)


def _shard_starts(lengths: np.ndarray) -> np.ndarray:
    """First document of each shard but the first."""
    numbers = lengths.cumsum() // 32768
    return np.flatnonzero(np.diff(numbers)) + 1
