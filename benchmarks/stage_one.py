"""Time of stage one against the bare forward pass of the teacher, on the same batches.

All sides run in turns over the same padded batches of real documents: `model(input_ids)`, which
makes (B, S, V) logits and drops them, and stage one for each tail: trunk, sliced head, top-k, tail
mass, tail, fidelity sample, entropy coding and shard writing. Prints tokens/s and the ratios of
times, and the forward's share of what a large matrix product reaches. The basis of a lowrank tail
is fitted before the clock starts: that is once a cache.

    python benchmarks/stage_one.py --teacher bigcode/starcoder2-3b --limit 64
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from peak import share_of_peak, synchronise

from cache.building.config import BuildConfig
from cache.building.encode import compute_rows
from cache.building.fit_basis import fit_basis
from cache.building.job import first_documents
from cache.building.writer import ShardAssembly, ShardWriter
from cache.machine.precision import resolve_dtype
from cache.storage.layout import ShardLayout
from cache.targets.format import TAILS, TargetFormat
from cache.targets.row_codec import RowCodec
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.teacher.rows import pad_documents, plan_batches
from cache.teacher.teacher import Teacher, head_of


def codec_of(tail: str, teacher: Teacher, documents, batch_tokens: int) -> RowCodec:
    """The codec of the default format with this tail."""
    targets = TargetFormat(tail=tail)
    basis = fit_basis(teacher, documents, targets, batch_tokens) if tail == "lowrank" else None
    head = head_of(teacher.model) if tail == "hidden" else None
    return RowCodec(targets, teacher.vocab_size, basis=basis, head=head)


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--limit", default=48, help="Documents.")
@click.option("--batch-tokens", default=2048)
@click.option("--repeats", default=3)
def main(teacher: str, dataset: str, limit: int, batch_tokens: int, repeats: int):
    """Print tokens/s of the bare forward and of stage one with each tail, and their ratios."""
    model = load_causal_lm(teacher, dtype=resolve_dtype("auto"))
    wrapped = Teacher(model)
    config = BuildConfig(
        out=Path("unused"), teacher=teacher, dataset=dataset, limit=limit, splits=("train",)
    )
    with first_documents(config, load_tokenizer(teacher)) as plan:
        documents = plan.documents["train"]
    batches = plan_batches(documents, batch_tokens)
    num_tokens = sum(document.num_tokens for document in documents)

    def bare() -> None:
        for indices in batches:
            input_ids = pad_documents([documents[i] for i in indices])
            with torch.inference_mode():
                model(input_ids=input_ids.to(wrapped.device), use_cache=False)

    def stage_one(codec: RowCodec) -> None:
        layout = ShardLayout(
            vocab_size=wrapped.vocab_size, targets=codec.targets, tail_width=codec.tail_width
        )
        with tempfile.TemporaryDirectory() as folder:
            writer = ShardWriter("benchmark")
            assembly = ShardAssembly(documents, layout, codec.tables)
            for indices in batches:
                batch = [documents[i] for i in indices]
                writer.add(assembly, indices, compute_rows(wrapped, batch, codec))
            writer.write(Path(folder) / "shard.h5", assembly)
            writer.finish()

    sides: dict[str, Callable[[], None]] = {"bare forward": bare}
    for tail in TAILS:
        codec = codec_of(tail, wrapped, documents, batch_tokens)
        sides[f"stage one, {tail}"] = partial(stage_one, codec)
    best = dict.fromkeys(sides, float("inf"))
    for repeat in range(repeats + 1):  # the first round warms up
        for name, side in sides.items():
            synchronise()
            started = time.perf_counter()
            side()
            synchronise()
            if repeat:
                best[name] = min(best[name], time.perf_counter() - started)
    for name, seconds in best.items():
        ratio = seconds / best["bare forward"]
        print(f"{name:24s} {num_tokens / seconds:8,.0f} tokens/s  {ratio:6.3f} x the time")
    flops = 2 * model.num_parameters() * num_tokens
    share = share_of_peak(flops, best["bare forward"], wrapped.device, model.dtype)
    print(f"bare forward: {share}")


if __name__ == "__main__":
    main()
