"""Bytes a token against fidelity for every way of storing soft targets, on a real teacher.

The teacher runs over the first documents of the train split: up to 8,192 rows fit the bases, other
rows measure. Bytes are those of a shard's HDF5 file with everything a row needs; what is stored
once a cache (basis, output head) is spread over MBPP and over 1 G tokens in two columns of its own.
Prints a Markdown table and saves a plot.

    python benchmarks/fidelity.py --teacher bigcode/starcoder2-3b --plot docs/fidelity.png
"""

import logging
from pathlib import Path

import click

from cache.building.config import BuildConfig
from cache.building.job import first_documents
from cache.machine.precision import resolve_dtype
from cache.targets.format import TargetFormat
from cache.teacher.load import load_causal_lm, load_tokenizer, num_token_ids
from cache.teacher.teacher import Teacher
from cache.tools.trial import Trial, TrialResult

TEMPERATURES = (1.0, 1.5, 1.7, 2.0)
MBPP_ROWS = 87_225  # train and validation with SmolLM2's tokenizer
SHARD_ROWS = 32_768


def settings(width: int) -> dict[str, TargetFormat]:
    """Every format tried, by name."""
    formats = {
        f"renormalised top-{k}, fp16": TargetFormat(top_k=k, logprob_bits=16, tail="renormalize")
        for k in (16, 64, 256, 512)
    }
    formats |= {f"mass, k = {k}": TargetFormat(top_k=k, tail="mass") for k in (16, 64, 256)}
    for rank, tail_bytes in ((8, 8), (32, 24), (64, 48), (128, 80), (256, 128), (256, 160)):
        formats[f"lowrank, k = 16, R = {rank}, {tail_bytes} B"] = TargetFormat(
            top_k=16, tail_rank=rank, tail_bytes=float(tail_bytes)
        )
    for top_k in (8, 16):
        for rank in sorted({min(512, width), width}):
            for tail_bytes in (128, 160, 200, 212):
                formats[f"lowrank, k = {top_k}, R = {rank}, {tail_bytes} B"] = TargetFormat(
                    top_k=top_k, tail_rank=rank, tail_bytes=float(tail_bytes)
                )
    formats["sampled, k = 16, 32 draws"] = TargetFormat(top_k=16, tail="sampled", tail_samples=32)
    formats["hidden, k = 16"] = TargetFormat(top_k=16, tail="hidden")
    formats["default"] = TargetFormat()
    return formats


def line(name: str, result: TrialResult) -> str:
    """A row of the table."""
    rows = {row.temperature: row for row in result.fidelity}
    cells = [
        name,
        f"{result.bytes_per_row:.1f}",
        f"{result.bytes_per_row + result.shared_bytes / MBPP_ROWS:.0f}",
        f"{result.bytes_per_row + result.shared_bytes / 1e9:.1f}",
        str(result.num_columns),
        *(f"{rows[t].total_variation:.4f} / {rows[t].kl:.4f}" for t in TEMPERATURES),
        f"{rows[2.0].gradient_cosine:.5f}",
    ]
    return "| " + " | ".join(cells) + " |"


def plot(results: dict[str, TrialResult], path: Path) -> None:
    """Bytes a token against total variation and KL at T = 2, a series a kind of tail."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for kind in ("renormalised", "mass", "lowrank", "sampled", "hidden", "default"):
        points = sorted(
            (r.bytes_per_row, r.fidelity[-1]) for name, r in results.items() if kind in name
        )
        style = {"marker": "*", "s": 220, "zorder": 3} if kind == "default" else {"s": 36}
        for axis, measure in zip(axes, ("total_variation", "kl"), strict=True):
            values = [getattr(row, measure) for _, row in points]
            axis.scatter([size for size, _ in points], values, label=kind, **style)
    for axis, label in zip(axes, ("total variation", "KL (nats)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="bytes a token on disk", ylabel=label)
        axis.axvline(256, color="grey", linewidth=0.8, linestyle=":")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(frameon=False)
    figure.suptitle("Stored targets against the full softmax at T = 2")
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--rows", default=16384, help="Half fit, at most 8,192; half measure.")
@click.option("--fidelity-rows", default=2048)
@click.option("--batch-tokens", default=2048)
@click.option("--only", default="", help="Settings whose name holds this.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path))
def main(
    teacher: str,
    dataset: str,
    rows: int,
    fidelity_rows: int,
    batch_tokens: int,
    only: str,
    plot_path,
):
    """Print the table, a line as soon as it is measured."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = load_causal_lm(teacher, dtype=resolve_dtype("auto"))
    config = BuildConfig(out=Path("unused"), teacher=teacher, dataset=dataset, splits=("train",))
    tokenizer = load_tokenizer(teacher)
    with first_documents(config, tokenizer) as plan:
        documents = plan.documents["train"]
    trial = Trial(
        Teacher(model),
        documents,
        num_tokens=num_token_ids(tokenizer),
        num_rows=rows,
        batch_tokens=batch_tokens,
        shard_rows=SHARD_ROWS,
        fidelity_rows=fidelity_rows,
    )
    print(f"fit on {trial.num_fit_rows:,} rows, bytes of {trial.num_rows:,} others")
    names = [f"TV / KL at T = {t:g}" for t in TEMPERATURES]
    header = ["setting", "B/token", "+ shared, MBPP", "+ shared, 1 G", "columns", *names]
    print("| " + " | ".join([*header, "cosine at T = 2"]) + " |")
    print("|---" * (len(header) + 1) + "|")
    results = {}
    for name, targets in settings(trial.width).items():
        if only not in name:
            continue
        results[name] = trial.measure(targets, TEMPERATURES)
        print(line(name, results[name]), flush=True)
    if plot_path is not None:
        plot(results, plot_path)


if __name__ == "__main__":
    main()
