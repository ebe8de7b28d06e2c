"""Rows a second from a shard on disk to soft targets in memory, on one core.

Writes shards of random rows for each format, then reads all of them group by group: HDF5 filters,
unpacking, entropy decoding and the codec. The files are in the page cache; what is counted is the
CPU time of the one thread. `pipeline.py` measures what training gets: documents in random order.

    python benchmarks/decode.py
"""

import tempfile
import time
from pathlib import Path

import click
import torch
from made_cache import write_made_cache

from cache.reading.open_shard import OpenShard
from cache.storage.manifest import Manifest
from cache.storage.packing import GROUP_ROWS, to_tensors
from cache.storage.tail_file import load_codec
from cache.targets.format import TargetFormat

FORMATS = {
    "mass, k = 64": TargetFormat(top_k=64, tail="mass"),
    "mass, k = 64, fp16": TargetFormat(top_k=64, tail="mass", logprob_bits=16),
    "mass, k = 64, top-p 0.95": TargetFormat(top_k=64, tail="mass", top_p=0.95),
    "renormalize, k = 64": TargetFormat(top_k=64, tail="renormalize"),
    "sampled, k = 64, 32 draws": TargetFormat(top_k=64, tail="sampled"),
    "hidden, k = 16": TargetFormat(top_k=16, tail="hidden"),
    "lowrank, k = 8 (default)": TargetFormat(),
}


def decode_rate(directory: Path) -> float:
    """Rows a second of CPU time, all shards of a cache once."""
    manifest = Manifest.read(directory)
    identity, num_rows = manifest.identity, 0
    codec = load_codec(directory, identity)
    started = time.process_time()
    for plan in manifest.plan.shards:
        shard = OpenShard(directory, plan, identity, codec.tables)
        for start in range(0, plan.num_rows, GROUP_ROWS):
            rows = shard.row_range(start, min(start + GROUP_ROWS, plan.num_rows))
            num_rows += codec.decode(to_tensors(rows)).num_rows
        shard.file.close()
    return num_rows / (time.process_time() - started)


@click.command()
@click.option("--tokens", default=32_768)
@click.option("--vocab-size", default=8192, help="Does not matter to the time, but to the set-up.")
@click.option("--width", default=576)
@click.option("--repeats", default=5)
def main(tokens: int, vocab_size: int, width: int, repeats: int):
    """Print rows/s of each format, best of the repeats."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, targets) in enumerate(FORMATS.items()):
            path = Path(folder) / str(number)
            write_made_cache(path, targets, num_tokens=tokens, vocab_size=vocab_size, width=width)
            best = max(decode_rate(path) for _ in range(repeats))
            print(f"{name:28s} {best:12,.0f} rows/s")


if __name__ == "__main__":
    main()
