"""Time of stage one against the bare forward pass of the teacher, on the same batches.

Both sides run in turns over the same padded batches of real documents: `model(input_ids)`, which
makes (B, S, V) logits and drops them, and stage one's trunk, sliced head, top-k, tail mass,
entropy, gold logprob and shard writing. Prints tokens/s of both and the ratio of times.

    python benchmarks/stage_one.py --teacher bigcode/starcoder2-3b --limit 64
"""

import tempfile
import time
from pathlib import Path

import click
import torch

from cache.config import BuildConfig
from cache.plan import plan_batches, plan_build
from cache.rows import compute_rows, pad_documents
from cache.shard import ShardLayout
from cache.teacher import Teacher, load_causal_lm, resolve_dtype
from cache.writer import ShardAssembly, ShardWriter


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--limit", default=48, help="Documents.")
@click.option("--batch-tokens", default=2048)
@click.option("--top-k", default=BuildConfig.top_k)
@click.option("--repeats", default=3)
def main(teacher: str, dataset: str, limit: int, batch_tokens: int, top_k: int, repeats: int):
    """Print tokens/s of the bare forward and of stage one, and their ratio."""
    model, tokenizer = load_causal_lm(teacher, dtype=resolve_dtype("auto"))
    wrapped = Teacher(model)
    config = BuildConfig(
        out=Path("unused"), teacher=teacher, dataset=dataset, limit=limit, splits=("train",)
    )
    documents = plan_build(config, tokenizer).documents["train"]
    batches = plan_batches(documents, batch_tokens)
    layout = ShardLayout(vocab_size=wrapped.vocab_size, top_k=top_k, tail="mass")
    num_tokens = sum(document.num_tokens for document in documents)

    def bare() -> None:
        for indices in batches:
            input_ids = pad_documents([documents[i] for i in indices])
            with torch.inference_mode():
                model(input_ids=input_ids.to(wrapped.device), use_cache=False)

    def stage_one() -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer, assembly = ShardWriter("benchmark"), ShardAssembly(documents, layout)
            for indices in batches:
                slices = compute_rows(wrapped, [documents[i] for i in indices], top_k)
                writer.add(assembly, indices, slices)
            writer.write(Path(folder) / "shard.h5", assembly)
            writer.finish()

    seconds: dict[str, list[float]] = {"bare forward": [], "stage one": []}
    for repeat in range(repeats + 1):  # the first round warms up
        for name, side in (("bare forward", bare), ("stage one", stage_one)):
            synchronise()
            started = time.perf_counter()
            side()
            synchronise()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    best = {name: min(times) for name, times in seconds.items()}
    for name, time_s in best.items():
        print(f"{name:13s} {num_tokens / time_s:8,.0f} tokens/s (best of {repeats})")
    print(f"ratio         {best['stage one'] / best['bare forward']:8.3f}")


if __name__ == "__main__":
    main()
