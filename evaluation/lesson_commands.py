"""The command `write-lessons`."""

import os

import click
from rich.console import Console

from cache.building.workers import launched_worker, parse_worker
from cache.machine.choices import PRECISIONS
from cache.machine.click_options import FILE
from cache.machine.gpus import take_gpus
from evaluation.commands import judging_options
from evaluation.lessons.config import ANSWERS, KEEP, SPLITS, TEMPLATES, LessonsConfig


@click.command("write-lessons")
@click.option("--out", type=FILE, required=True, help="Gets the lessons; a name in .jsonl.")
@click.option("--teacher", required=True, help="Hub id, folder or .gguf file.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option(
    "--writer",
    help="Folder of a student that writes in the teacher's stead, in the form that this one reads.",
)
@click.option(
    "--dataset",
    default=LessonsConfig.dataset,
    help="Problems: hub id, or a JSON-lines file in MBPP's schema.",
)
@click.option(
    "--split",
    "splits",
    type=click.Choice(SPLITS),
    multiple=True,
    default=LessonsConfig.splits,
    help="Whose problems; repeat it for both.",
)
@click.option("--limit", type=int, help="Only the first problems of each split.")
@click.option(
    "--invent",
    default=LessonsConfig.invent,
    help="First have so many new problems made after the dataset's own, and solve those; kept are "
    "those whose tests two different solutions pass.  [default: none]",
)
@click.option("--samples", default=LessonsConfig.samples, help="Solutions asked for of a problem.")
@click.option("--temperature", default=LessonsConfig.temperature, help="Of the samples.")
@click.option("--top-p", default=LessonsConfig.top_p, help="Of the samples.")
@click.option("--max-new-tokens", default=LessonsConfig.max_new_tokens)
@click.option("--seed", default=LessonsConfig.seed, help="Of the samples.")
@click.option(
    "--stop", "stops", multiple=True, help="Further text that ends a solution; repeat it."
)
@click.option(
    "--template",
    default=LessonsConfig.template,
    type=click.Choice(TEMPLATES),
    help="How problems are asked; auto: chat where the teacher has a chat template, else "
    "instruction.",
)
@click.option(
    "--answer",
    default=LessonsConfig.answer,
    type=click.Choice(ANSWERS),
    help="Of chat: fence begins the answer with a code block, free takes the code out of any.",
)
@click.option(
    "--examples",
    type=int,
    help="Solved problems before the one asked, 0 to 3.  [default: 3; of chat and --writer, 0]",
)
@click.option("--keep", default=LessonsConfig.keep, type=click.Choice(KEEP), help="Which samples.")
@click.option(
    "--per-problem",
    default=LessonsConfig.per_problem,
    help="Lessons of a problem at most: those that differ most.",
)
@click.option(
    "--apart-from",
    multiple=True,
    type=FILE,
    help="Leave out near copies of the solutions in this file, such as earlier lessons; repeat it.",
)
@click.option("--batch-size", default=LessonsConfig.batch_size, help="Solutions at once.")
@click.option("--dtype", default=LessonsConfig.dtype, type=click.Choice(PRECISIONS))
@click.option("--device", default=LessonsConfig.device, help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--worker",
    help="RANK/COUNT, as in 3/64: one of several processes.  [default: that of torchrun, else all]",
)
@judging_options
def write_lessons(worker: str | None, **options):
    """Have the teacher solve problems, and keep what passes their tests.

    The lessons are rows in MBPP's schema, for cache-teacher --dataset. What fails goes to
    NAME.failed.jsonl with the reason, what came of it all to NAME.stats.json; NAME.work keeps the
    finished parts, so that the same command goes on where it was stopped.

    \b
    Example:
      python cli.py write-lessons --teacher Qwen/Qwen2.5-Coder-0.5B-Instruct --out lessons.jsonl
      python cli.py write-lessons --teacher Qwen/Qwen2.5-Coder-0.5B-Instruct --samples 32 \\
        --per-problem 8 --out lessons.jsonl --worker 0/4
      python cli.py write-lessons --teacher bigcode/starcoder2-3b --writer runs/students/one \\
        --keep all --apart-from lessons.jsonl --out round-2.jsonl
    """
    config = LessonsConfig(**options)
    part = parse_worker(worker) if worker else launched_worker(os.environ)
    if part is not None:
        take_gpus()
    from evaluation.lessons.stats import to_rich_stats
    from evaluation.lessons.write import write_lessons as write

    written = write(config, part)
    if written.stats is None:
        click.echo(f"Parts still to come, of other workers: {written.missing}.")
        return
    Console().print(to_rich_stats(written.stats))
    click.echo(f"Lessons: {config.out}{_failed(config)}, counts {config.stats}")


def _failed(config: LessonsConfig) -> str:
    return f", what failed {config.failed}" if config.keep == "passing" else ""
