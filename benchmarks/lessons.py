"""What do lessons that a teacher wrote give a student, beside the gold solutions?

Has a teacher write lessons for a dataset's training problems, builds caches of the gold solutions,
of the lessons and of both, trains every student from each on equally many tokens, and measures KL
from the teacher on the (gold) validation split and pass@1 on HumanEval and MBPP's test split, with
exact McNemar tests against gold. `own` is a round of on-policy distillation: the gold solutions,
and all that the first student, trained from gold, then wrote. What is there is not done again.

    python benchmarks/lessons.py --teacher Qwen2.5-Coder-0.5B-Instruct --dataset mbpp.jsonl \\
        --student narrow:2432:2 --student 6x512x8 --work runs/lessons
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from students import source_of

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.building.mixture import Mixture
from cache.machine.choices import PRECISIONS
from cache.reading.reader import CacheReader
from distill.run.run_folder import FINISHED, read_run
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe
from evaluation.benchmark import run_benchmark
from evaluation.comparison.model_row import ModelRow
from evaluation.config import BenchmarkConfig
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.stats import to_rich_stats
from evaluation.lessons.write import write_lessons
from evaluation.metrics.paired import compare_verdicts

GOLD, LESSONS, BOTH, OWN = KINDS = ("gold", "lessons", "both", "own")
DOCUMENTS_A_STEP = 4


def write(config: LessonsConfig) -> Path:
    """The lessons' file, with what came of them printed."""
    written = write_lessons(config)
    if written.stats is not None:
        Console(width=100).print(to_rich_stats(written.stats))
    return config.out


def build(kind: str, gold: str, more: Path, out: Path, **options: Any) -> Path:
    """A cache of the gold solutions, of what a model wrote, or of both."""
    sources = (gold,) if kind == GOLD else (gold, str(more))
    weights = (0.0, 1.0) if kind == LESSONS else ()
    build_cache(
        BuildConfig(
            out=out, mixture=Mixture(sources=sources, weights=weights), batch_tokens=2048, **options
        )
    )
    return out


def train_on(cache: Path, num_tokens: int, out: Path, recipe: partial) -> tuple[float, float, int]:
    """Validation KL and cross-entropy of a student after about so many tokens, and how many."""
    with CacheReader(cache) as reader:
        lengths = reader.document_lengths("train")
    num_steps = max(1, round(num_tokens / (DOCUMENTS_A_STEP * lengths.mean())))
    epochs = math.ceil(num_steps / math.ceil(len(lengths) / DOCUMENTS_A_STEP))
    run = read_run(out)
    if run is None or run["status"] != FINISHED:
        asked = recipe(name=out.name, epochs=epochs, max_steps=num_steps)
        train(TrainConfig(cache=cache, recipe=asked, out=out, resume=True, wandb="disabled"))
        run = read_run(out)
    assert run is not None
    return run["losses"]["val_kl"], run["losses"]["val_cross_entropy"], run["trained_tokens"]


@click.command()
@click.option("--teacher", default="Qwen/Qwen2.5-Coder-0.5B-Instruct")
@click.option("--dataset", default=BuildConfig.dataset)
@click.option("--samples", default=8, help="Solutions asked for of each problem.")
@click.option("--keep", default=LessonsConfig.keep, help="Which samples; --help of write-lessons.")
@click.option("--examples", type=int, help="Solved problems before the one asked.")
@click.option("--student", "students", multiple=True, default=["narrow:2432:2", "6x512x8"])
@click.option("--kind", "kinds", multiple=True, default=KINDS, type=click.Choice(KINDS))
@click.option("--tokens", default=50_000, help="That each student is trained on.")
@click.option("--lr-cut", default=1e-5, help="Of students with weights of their own.")
@click.option("--alpha", default=1.0, help="Weight of the teacher's term.")
@click.option("--template", default="signature", help="Of documents and of MBPP's prompts.")
@click.option(
    "--dtype",
    default="auto",
    type=click.Choice(PRECISIONS),
    help="Of all models; students train in it, mixed.",
)
@click.option("--benchmark", "benchmarks", multiple=True, default=("humaneval", "mbpp"))
@click.option("--problems", type=int, help="Only so many of each benchmark.")
@click.option("--max-new-tokens", default=256)
@click.option("--batch-size", default=32, help="Completions at once.")
@click.option("--work", type=click.Path(path_type=Path), required=True)
def main(
    teacher, dataset, samples, keep, examples, students, kinds, tokens, lr_cut, alpha, template,
    dtype, benchmarks, problems, max_new_tokens, batch_size, work,
):  # fmt: skip
    """Print the yield of the lessons, and a line for each student and kind."""
    asked = partial(
        LessonsConfig, teacher=teacher, dataset=dataset, samples=samples, dtype=dtype,
        max_new_tokens=max_new_tokens, batch_size=batch_size,
    )  # fmt: skip
    build_on = partial(build, gold=dataset, teacher=teacher, template=template, dtype=dtype)
    lessons = write(asked(out=work / "lessons.jsonl", keep=keep, examples=examples))
    ordered = [kind for kind in KINDS if kind in kinds or (kind == GOLD and OWN in kinds)]
    caches = {
        kind: build_on(kind, more=lessons, out=work / "caches" / kind)
        for kind in dict.fromkeys((GOLD, *ordered))
        if kind != OWN
    }
    trained: list[Path] = []
    for student in students:
        source = source_of(student, teacher, caches[GOLD], work / "cut", 1024)
        recipe = partial(
            Recipe, student=source, temperature=2.0, alpha=alpha, accumulate=1, sample_prompts=0,
            batch_size=DOCUMENTS_A_STEP, warmup_ratio=0.1, precision=dtype,
            lr=1e-3 if source == student else lr_cut,
        )  # fmt: skip
        folders = {
            kind: work / "students" / f"{student.replace(':', '-')}-{kind}" for kind in ordered
        }
        for kind, folder in folders.items():
            if kind == OWN:
                file = work / f"{folder.name}.jsonl"
                writer = str(folders[GOLD])
                more = write(
                    asked(out=file, writer=writer, samples=2, keep="all", template=template)
                )
                cache = build_on(kind, more=more, out=work / "caches" / folder.name)
            else:
                cache = caches[kind]
            kl, ce, num_tokens = train_on(cache, tokens, folder, recipe)
            words = f"{num_tokens:8,d} tokens  KL {kl:.4f}  CE {ce:.4f}"
            print(f"{folder.name:30s} {words}", flush=True)
            trained.append(folder)
    for benchmark in benchmarks:
        result = run_benchmark(
            BenchmarkConfig(
                checkpoints=(*trained, *sorted((work / "cut").glob("*"))), teacher=teacher,
                benchmark=benchmark, dataset=dataset if benchmark == "mbpp" else None,
                template=template, limit=problems, samples=0, max_new_tokens=max_new_tokens,
                batch_size=batch_size, dtype=dtype, cache=caches[GOLD], out=work / benchmark,
                latency_prompts=1, latency_tokens=1, latency_warmup=0, latency_batch=1,
            )
        )  # fmt: skip
        show(benchmark, {row.label: row for row in result.rows})


def show(benchmark: str, rows: dict[str, ModelRow]) -> None:
    """A line for each model: what it solves, and how that differs from its twin's from gold."""
    print(f"{benchmark}: solved, 95 % interval in percent, against gold: more, fewer, p")
    for label, row in rows.items():
        solved, (low, high) = sum(row.greedy_passed.values()), row.greedy_interval
        words = (
            f"{label:30s} {solved:4d}/{len(row.greedy_passed)} {100 * low:5.1f} {100 * high:5.1f}"
        )
        twin = rows.get(f"{label.rpartition('-')[0]}-{GOLD}")
        if twin is not None and twin is not row:
            found = compare_verdicts(row.greedy_passed, twin.greedy_passed, {}, {})
            words += f" {found.only_student:4d} {found.only_teacher:4d} {found.mcnemar_p:.3f}"
        print(words, flush=True)


if __name__ == "__main__":
    main()
