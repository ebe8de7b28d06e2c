"""What does a student gain by what: where it starts, and what it is trained on?

Builds a cache of each kind of target from one teacher, cuts students from it, trains every student
from every kind at equal tokens with every seed, and measures KL from the true teacher and
cross-entropy at T = 1 on the validation split, always with dense targets. `labels` is the
student without the teacher (alpha 0). "Way" is how far a kind comes from labels alone to dense.
Several `--epochs` are measured in the course of one run. What is there is not done again.
`--plot` draws validation KL over the tokens of each run.

    python benchmarks/students.py --teacher SmolLM2-135M --work runs/students \\
        --student 2x128x2 --student cut:15:uniform --student narrow:1024:2
"""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, AutoTokenizer
from validation import validation_rows, way

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.cutting.init_student import init_student
from distill.learning.student import first_student
from distill.loss.terms import sparse_kl_sum
from distill.run.checkpoint import seed_process
from distill.run.logs import read_metrics
from distill.run.run_folder import FINISHED, read_run
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.cut import CutConfig
from distill.settings.recipe import Recipe

DENSE = "dense"
CACHES = {
    "renormalised": TargetFormat(top_k=64, logprob_bits=16, tail="renormalize"),
    "mass": TargetFormat(top_k=64, tail="mass"),
    "default": TargetFormat(),
    DENSE: TargetFormat(tail="hidden"),
}
KINDS = ("labels", *CACHES)


class Measured(NamedTuple):
    """At T = 1, nats a row."""

    kl: float
    ce: float


def measure(student, dense: CacheReader) -> Measured:
    """Over all rows of the validation split."""
    kl, ce, num_rows = 0.0, 0.0, 0
    for logits, labels, targets in validation_rows(student, dense):
        kl += float(sparse_kl_sum(logits, targets, 1.0))
        ce += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        num_rows += len(labels)
    return Measured(kl / num_rows, ce / num_rows)


def source_of(student: str, teacher: str, cache: Path, folder: Path, num_tokens: int) -> str:
    """A shape as it stands, or the folder of a student that is cut on so many of a cache's tokens.

    `cut:LAYERS:CHOICE` has some layers, `narrow:NEURONS:KV_HEADS` all, with so many of each.
    """
    how, *numbers = student.split(":")
    if how == "cut":
        asked: dict[str, Any] = {"num_layers": int(numbers[0]), "choose": numbers[1]}
    elif how == "narrow":
        asked = {"feed_forward": int(numbers[0]), "kv_heads": int(numbers[1])}
    else:
        return student
    out = folder / "-".join(numbers)
    if not out.is_dir():
        init_student(
            CutConfig(teacher=teacher, out=out, cache=cache, num_tokens=num_tokens, **asked)
        )
    return str(out)


def trained(recipe: Recipe, kind: str, work: Path, dense: CacheReader) -> Measured:
    """A student after all epochs of a recipe, which may go on with a run of fewer."""
    out = work / "students" / recipe.name
    file = work / "measured" / f"{recipe.name}-{recipe.epochs}.json"
    if not file.is_file():
        run = read_run(out)
        if run is None or run["status"] != FINISHED or run["recipe"]["epochs"] != recipe.epochs:
            cache = work / "caches" / (DENSE if kind == "labels" else kind)
            train(TrainConfig(cache=cache, recipe=recipe, out=out, resume=True, wandb="disabled"))
        found = measure(AutoModelForCausalLM.from_pretrained(out), dense)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found))
    return Measured(*json.loads(file.read_text()))


def start_of(recipe: Recipe, dense: CacheReader) -> Measured:
    """A student before its first step."""
    seed_process(recipe.seed, rank=0)
    tokenizer = AutoTokenizer.from_pretrained(dense.tokenizer_path)
    return measure(first_student(recipe, dense, tokenizer), dense)


@click.command()
@click.option("--teacher", default=BuildConfig.teacher)
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--limit", default=60, help="Documents of each split.")
@click.option("--student", "students", multiple=True, default=["2x128x2"])
@click.option("--kind", "kinds", multiple=True, default=KINDS, type=click.Choice(KINDS))
@click.option("--epochs", "all_epochs", multiple=True, default=[4], help="Rising; repeat it.")
@click.option("--lr", default=1e-3)
@click.option("--lr-cut", default=1e-4, help="Of students with weights of their own.")
@click.option("--temperature", default=2.0)
@click.option("--alpha", default=0.5)
@click.option("--seeds", default=3)
@click.option("--num-tokens", default=1024, help="That layers are chosen on.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of the learning curves.")
def main(
    teacher, dataset, limit, students, kinds, all_epochs, lr, lr_cut, temperature, alpha, seeds,
    num_tokens, work, plot,
):  # fmt: skip
    """Print a line for each student and kind: means over seeds, and their range of KL."""
    for kind in {*kinds, DENSE} - {"labels"}:
        build_cache(
            BuildConfig(
                out=work / "caches" / kind, teacher=teacher, dataset=dataset, limit=limit,
                targets=CACHES[kind], batch_tokens=2048,
            )
        )  # fmt: skip
    print(f"T = {temperature:g}, alpha = {alpha:g}, {seeds} seeds; nats at T = 1")
    print(
        f"{'student':18s} {'trained on':13s} epochs {'KL':>8s} {'min':>8s} {'max':>8s} {'CE':>8s}"
    )
    with CacheReader(work / "caches" / DENSE) as dense:
        for student in students:
            source = source_of(student, teacher, work / "caches" / DENSE, work / "cut", num_tokens)
            recipe = partial(
                Recipe, student=source, temperature=temperature, accumulate=1, sample_prompts=0,
                lr=lr if source == student else lr_cut,
            )  # fmt: skip
            show(student, "nothing", 0, [start_of(recipe(name="start", alpha=alpha), dense)])
            found: dict[str, list[Measured]] = {}
            for kind in kinds:
                weight = 0.0 if kind == "labels" else alpha
                for epochs in all_epochs:
                    found[kind] = []
                    for seed in range(seeds):
                        name = f"{student.replace(':', '-')}-{kind}-{seed}"
                        run = recipe(name=name, alpha=weight, seed=seed, epochs=epochs)
                        found[kind].append(trained(run, kind, work, dense))
                    show(student, kind, epochs, found[kind])
            if {"labels", DENSE} <= set(found):
                ways = [
                    f"{kind} {way(found, kind, DENSE):.0%}" for kind in found if kind != "labels"
                ]
                print(f"{student:18s} way from labels to dense: {', '.join(ways)}", flush=True)
    if plot is not None:
        draw([(s, k) for s in students for k in kinds], work / "students", plot)


def draw(curves: list[tuple[str, str]], runs: Path, path: Path) -> None:
    """Validation KL of each student and kind, of the first seed, over tokens trained on."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for student, kind in curves:
        metrics = read_metrics(runs / f"{student.replace(':', '-')}-{kind}-0" / "metrics.jsonl")
        measured = [line for line in metrics if "val_kl" in line]
        tokens = [sum(one["num_rows"] for one in metrics if one.get("num_rows") and
                      one["step"] <= line["step"]) for line in measured]  # fmt: skip
        axes.plot(tokens, [line["val_kl"] for line in measured], "o-", label=f"{student}, {kind}")
    axes.set(xlabel="tokens trained on", ylabel="validation KL at T = 1, nats", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def show(student: str, kind: str, epochs: int, found: list[Measured]) -> None:
    """A line of the table."""
    kls = [one.kl for one in found]
    kl, ce = statistics.fmean(kls), statistics.fmean(one.ce for one in found)
    print(
        f"{student:18s} {kind:13s} {epochs:6d} {kl:8.4f} {min(kls):8.4f} {max(kls):8.4f} {ce:8.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
