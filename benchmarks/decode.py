"""Rows a second from a shard on disk to soft targets in memory, on one core.

Writes a shard of random rows for each format, then reads all of it in blocks: HDF5 filters,
unpacking, entropy decoding and the codec. The file is in the page cache; what is
counted is the CPU time of the one thread.

    python benchmarks/decode.py
"""

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch

from cache.basis import BasisFit
from cache.config import TargetFormat
from cache.documents import Document
from cache.fidelity import NUM_MEASURES
from cache.layout import ShardLayout
from cache.manifest import ShardPlan
from cache.open_shard import OpenShard
from cache.packing import GROUP_ROWS, to_tensors
from cache.row_codec import OutputHead, RowCodec
from cache.rows import ComputedRows
from cache.shard import write_shard
from cache.writer import ShardAssembly

FORMATS = {
    "mass, k = 64": TargetFormat(top_k=64, tail="mass"),
    "mass, k = 64, fp16": TargetFormat(top_k=64, tail="mass", logprob_bits=16),
    "mass, k = 64, top-p 0.95": TargetFormat(top_k=64, tail="mass", top_p=0.95),
    "renormalize, k = 64": TargetFormat(top_k=64, tail="renormalize"),
    "sampled, k = 64, 32 draws": TargetFormat(top_k=64, tail="sampled"),
    "hidden, k = 16": TargetFormat(tail="hidden"),
    "lowrank, k = 16 (default)": TargetFormat(),
}


def make_shard(path: Path, targets: TargetFormat, rows: int, vocab_size: int, width: int):
    """Write a shard of one document and return how to open and decode it."""
    torch.manual_seed(0)
    weight = torch.randn(vocab_size, width) / width**0.5
    hidden = torch.randn(rows, width) * torch.linspace(6, 0.5, width)
    basis = head = None
    if targets.tail == "lowrank":
        fit = BasisFit(weight, None)
        logits = hidden[:2048] @ weight.T
        fit.add(hidden[:2048], logits, logits.topk(targets.top_k).indices)
        basis = fit.finish(min(targets.tail_rank, width), targets.tail_bytes)
    if targets.tail == "hidden":
        head = OutputHead(weight=weight, bias=torch.zeros(vocab_size))
    codec = RowCodec(targets, vocab_size, basis=basis, head=head)
    gold = torch.zeros(rows, dtype=torch.int64)
    slices = [
        codec.encode(part @ weight.T, part, ids)
        for part, ids in zip(hidden.split(256), gold.split(256), strict=True)
    ]
    layout = ShardLayout(vocab_size=vocab_size, targets=targets, tail_width=codec.tail_width)
    document = Document(task_id=1, token_ids=np.zeros(rows + 1, dtype=np.int64), prompt_length=1)
    assembly = ShardAssembly([document], layout, codec.tables)
    assembly.add([0], ComputedRows(slices=slices, fidelity=[torch.zeros(1, NUM_MEASURES)]))
    write_shard(path, assembly.datasets(), identity_sha256="benchmark")
    plan = ShardPlan(
        path=path.name, split="train", first_document=0, num_documents=1, num_tokens=rows + 1
    )
    return codec, layout, plan


@click.command()
@click.option("--rows", default=16384)
@click.option("--vocab-size", default=8192, help="Does not matter to the time, but to the set-up.")
@click.option("--width", default=576)
@click.option("--repeats", default=5)
def main(rows: int, vocab_size: int, width: int, repeats: int):
    """Print rows/s of each format, best of the repeats."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, targets in FORMATS.items():
            path = Path(folder) / f"{abs(hash(name))}.h5"
            codec, layout, plan = make_shard(path, targets, rows, vocab_size, width)
            best = float("inf")
            for _ in range(repeats):
                shard = OpenShard(path, layout, plan, "benchmark", codec.tables)
                started = time.process_time()
                for start in range(0, rows, GROUP_ROWS):
                    codec.decode(to_tensors(shard.row_range(start, start + GROUP_ROWS)))
                best = min(best, time.process_time() - started)
                shard.file.close()
            print(f"{name:28s} {rows / best:12,.0f} rows/s")


if __name__ == "__main__":
    main()
