"""A cache again with other targets, without the teacher.

Shards keep their documents; their rows are derived from the stored ones, or encoded anew from the
teacher's logits where hidden states give these back. N rows, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cache.building.fit_basis import FIT_ROWS, FitRows, collect_rows, finish_basis, logits_every
from cache.errors import CacheError
from cache.machine.durable import file_sha256, make_directory
from cache.machine.lock import writer_lock
from cache.machine.progress import BuildProgress, counted_progress
from cache.reading.open_shard import OpenShard
from cache.storage.created import merged_created
from cache.storage.finish import finish_cache
from cache.storage.identity import FORMAT_VERSION
from cache.storage.layout import ShardLayout
from cache.storage.left_over import remove_left_over
from cache.storage.manifest import Manifest, Plan, ShardRecord, state_of
from cache.storage.packing import GROUP_ROWS, pack_rows, to_tensors
from cache.storage.shard import is_intact, with_marks, write_shard
from cache.storage.tail_file import TAIL_FILE, load_codec, load_head, save_basis, save_head
from cache.targets.basis import BasisFit
from cache.targets.derive import derive_rows, require_derivable
from cache.targets.fidelity import NUM_MEASURES, measure_rows, require_numbers, sampled_rows
from cache.targets.format import LogitMap, TargetFormat
from cache.targets.row_codec import EncodedRows, OutputHead, RowCodec
from cache.teacher.logit_map import apply_logit_map
from cache.teacher.rows import LogitSlice, head_slices, reduce_slices
from cache.tools.source import Source, require_free, require_same_plan

DOCUMENT_FIELDS = ("task_ids", "prompt_lengths", "token_offsets", "token_ids", "token_marks")

FIT_BLOCK_ROWS = 128
"""Consecutive rows that a basis is fitted on alike: about a document."""


def reencode_cache(directory: Path, out: Path, targets: TargetFormat) -> Manifest:
    """Make a cache at `out` with other targets than the complete one at `directory`.

    Fidelity is measured where the source has hidden states; elsewhere the new manifest has none.
    A call that was stopped resumes when it is given again.

    Raises:
        CacheError: the source is incomplete or damaged, does not hold what the targets need, or
            something else is at `out`.
    """
    source = Source(directory=directory, manifest=Manifest.read(directory))
    require_derivable(source.identity.targets, targets, str(directory))
    require_free(out, (TAIL_FILE,))
    found = load_codec(directory, source.identity)
    head = None
    if source.identity.targets.tail == "hidden":
        # The rows are divided by the head's unit already.
        head = replace(load_head(directory, source.identity), unit=1.0)
    make_directory(out)
    with writer_lock(out):
        remove_left_over(out, {shard.split for shard in source.manifest.plan.shards})
        if state_of(out).plan is None:  # what it was made for, only a plan says
            (out / TAIL_FILE).unlink(missing_ok=True)
        tail_width = _write_tail(out, source, found, targets, head)
        identity = replace(
            source.identity,
            format_version=FORMAT_VERSION,
            targets=targets,
            tail_width=tail_width,
            tail_sha256=file_sha256(out / TAIL_FILE) if tail_width else "",
        )
        plan = replace(source.manifest.plan, identity=identity)
        require_same_plan(out, plan, f"{directory} with these targets")
        plan.write(out)
        _write_shards(out, plan, source, found, head)
        source.copy_other_files(out, but=(TAIL_FILE,))
        return finish_cache(out, plan, device="cpu", record=merged_created([source.manifest]))


def _write_tail(
    out: Path, source: Source, found: RowCodec, targets: TargetFormat, head: OutputHead | None
) -> int:
    """Make tail.safetensors where the tail needs it and it is not there; the tail's width."""
    if targets.tail not in ("lowrank", "hidden"):
        return 0
    assert head is not None
    width = head.weight.shape[1]
    if targets.tail == "hidden":
        if not (out / TAIL_FILE).is_file():
            save_head(head, out / TAIL_FILE)
        return width
    if not (out / TAIL_FILE).is_file():
        save_basis(finish_basis(_fit(source, found, targets, head), targets), out / TAIL_FILE)
    return min(targets.tail_rank, width)


def _fit(source: Source, found: RowCodec, targets: TargetFormat, head: OutputHead) -> BasisFit:
    """What a basis is fitted on: the first rows of the source, as a build takes them."""
    total = min(FIT_ROWS, sum(shard.num_rows for shard in source.manifest.plan.shards))
    rows = _fit_rows(source, found, head, logits_every(total))
    with counted_progress("fitting the tail's basis", first="reading hidden states") as on_rows:
        return collect_rows(head, rows, targets.top_k, total, on_rows)


def _fit_rows(source: Source, found: RowCodec, head: OutputHead, every: int) -> Iterator[FitRows]:
    blocks = (
        part
        for shard in source.manifest.plan.shards
        for rows in _blocks(source, shard, found)
        for part in rows["tail_hidden"].split(FIT_BLOCK_ROWS)
    )
    for i, block in enumerate(blocks):
        if i % every:
            yield block.float(), None
        else:
            for logits, hidden, _ in _slices(head, block):
                yield hidden, logits


def _write_shards(
    out: Path, plan: Plan, source: Source, found: RowCodec, head: OutputHead | None
) -> None:
    codec = load_codec(out, plan.identity)
    missing = [shard for shard in plan.shards if not is_intact(out, shard, plan.identity)]
    total = sum(shard.num_rows for shard in plan.shards)
    done = total - sum(shard.num_rows for shard in missing)
    with BuildProgress(total=total, done=done) as progress:
        for shard in missing:
            arrays = with_marks(source.sound_arrays(shard))
            kept = {name: arrays[name] for name in DOCUMENT_FIELDS}
            first_id = int(kept["task_ids"][0])
            generator = torch.Generator().manual_seed(first_id)
            sample = sampled_rows(first_id, shard.num_rows)
            parts, fidelity, first_row = [], [np.zeros((0, NUM_MEASURES))], 0
            for block in _blocks(source, shard, found):
                if head is None:
                    parts.append(derive_rows(block, found, codec.targets))
                else:
                    here = [i - first_row for i in sample if i >= first_row]
                    rows, measured = _encode_anew(block, head, codec, generator, here)
                    parts.append(rows)
                    fidelity.append(measured)
                first_row += len(block["topk_ids"])
                progress.advance(len(block["topk_ids"]))
            kept["fidelity"] = np.concatenate(fidelity).astype("<f2")
            kept |= _packed(parts, ShardLayout.of(plan.identity), codec)
            write_shard(out / shard.path, kept, identity_sha256=plan.identity.shard_sha256)
            progress.shard_done(out / shard.path, shard.num_rows)


def _packed(
    parts: Sequence[EncodedRows], layout: ShardLayout, codec: RowCodec
) -> dict[str, np.ndarray]:
    rows = {
        name: torch.cat([part[name] for part in parts]).numpy().astype(dtype)
        for name, (dtype, _) in layout.row_fields().items()
    }
    return pack_rows(rows, ragged=layout.ragged, tables=codec.tables)


@torch.inference_mode()
def _encode_anew(
    block: EncodedRows,
    head: OutputHead,
    codec: RowCodec,
    generator: torch.Generator,
    sample: Sequence[int],
) -> tuple[EncodedRows, np.ndarray]:
    """Rows of a hidden tail through the head and the new codec, and the fidelity of a sample."""
    parts, fidelity, first_row = [], [torch.zeros(0, NUM_MEASURES)], 0
    kept = {name: block[name] for name in ("entropy", "gold_logprob", "gold_rank")}
    for logits, hidden, no_gold in reduce_slices(_slices(head, block["tail_hidden"])):
        rows = codec.encode(logits, hidden, no_gold, generator)
        parts.append(rows)
        here = [i - first_row for i in sample if 0 <= i - first_row < len(hidden)]
        if here:
            decoded = codec.decode({name: part[here] for name, part in rows.items()})
            fidelity.append(measure_rows(logits[here], decoded))
        first_row += len(hidden)
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    measured = torch.cat(fidelity).numpy()
    require_numbers(measured)
    return rows | kept, measured


def _blocks(source: Source, shard: ShardRecord, found: RowCodec) -> Iterator[EncodedRows]:
    """A shard's encoded rows, some thousands at a time."""
    identity = source.identity
    opened = OpenShard(source.directory, shard, identity, found.tables)
    try:
        for start in range(0, shard.num_rows, GROUP_ROWS):
            stop = min(start + GROUP_ROWS, shard.num_rows)
            rows = opened.row_range(start, stop)
            if int(rows["topk_ids"].max()) >= identity.vocab_size:
                raise CacheError(f"{opened.file.path}: topk_ids beyond the vocabulary")
            yield to_tensors(rows)
    finally:
        opened.file.close()


def _slices(head: OutputHead, hidden: torch.Tensor) -> Iterator[LogitSlice]:
    """Logits (n, V) fp32 and hidden states (n, D) of the rows, with 0 for each gold id."""
    no_gold = torch.zeros(len(hidden), dtype=torch.int64)

    def logits(states: torch.Tensor) -> torch.Tensor:
        products = torch.addmm(head.bias, states.float(), head.weight.T)
        return apply_logit_map(products, LogitMap(softcap=head.softcap))

    return head_slices(logits, hidden, no_gold, len(head.weight))
