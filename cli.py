"""The command line: a command parses, calls one library function and prints what it returns."""

import os
import shlex
import signal
import sys
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path

import click
from click.core import ParameterSource

from cache.config import DTYPE_NAMES, LONG_DOCUMENTS, TAILS, BuildConfig, TargetFormat
from cache.errors import CacheError
from cache.problems import SPLIT_TASK_IDS
from cache.templates import TEMPLATES
from distill.config import SweepConfig, TrainConfig
from distill.errors import DistillError
from distill.recipe import LOSS_ON, PRECISIONS
from distill.recipe_files import find_recipe
from evaluation.config import BenchmarkConfig
from evaluation.errors import EvaluationError

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
WANDB_MODES = click.Choice(["online", "offline", "disabled"])


class Commands(click.Group):
    """Turns the packages' errors into a sentence, and Ctrl-C into the command that goes on."""

    def invoke(self, ctx: click.Context):
        """Run the command that was named."""
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except (CacheError, DistillError, EvaluationError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            message = f"\nStopped; what is finished is kept. To go on:\n  {_command_to_go_on()}"
            click.echo(message, err=True)
            sys.exit(130)


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def _command_to_go_on() -> str:
    program = ["python", "cli.py"] if sys.argv[0].endswith("cli.py") else ["logitcache"]
    words = sys.argv[1:]
    if words[:1] == ["train"] and "--resume" not in words:
        words = [*words, "--resume"]
    return shlex.join([*program, *words])


def _print(renderable) -> None:
    from rich.console import Console

    Console().print(renderable)


@click.group(cls=Commands, context_settings={"max_content_width": 100, "show_default": True})
@click.version_option(package_name="logitcache")
def main():
    """Run a teacher once, store its soft targets, train any number of students from them.

    \b
    Example:
      python cli.py cache-teacher --out runs/cache
      python cli.py sweep --cache runs/cache --out runs/students
      python cli.py evaluate --checkpoints runs/students/* --teacher bigcode/starcoder2-3b
    """


def _target_options(command):
    """Options that make up a `TargetFormat`, handed on as `targets`."""

    @wraps(command)
    def with_targets(**options):
        given = {field.name: options.pop(field.name) for field in fields(TargetFormat)}
        return command(targets=TargetFormat(**given), **options)

    for option in reversed(
        [
            click.option("--top-k", default=TargetFormat.top_k, help="Most entries stored a row."),
            click.option(
                "--top-p", type=float, help="Fewer entries where they hold this much probability."
            ),
            click.option(
                "--logprob-bits",
                type=click.Choice([8, 16]),
                default=TargetFormat.logprob_bits,
                help="8: log-spaced codes; 16: fp16.",
            ),
            click.option(
                "--tail",
                default=TargetFormat.tail,
                type=click.Choice(TAILS),
                help="What is kept of the tokens outside the top-k: their shape, only their mass, "
                "all (from the hidden state), weighted draws, or nothing.",
            ),
            click.option(
                "--tail-rank",
                default=TargetFormat.tail_rank,
                help="Coefficients of lowrank tails.",
            ),
            click.option(
                "--tail-bytes",
                default=TargetFormat.tail_bytes,
                help="Bytes a row that they may take once coded.",
            ),
            click.option(
                "--tail-samples", default=TargetFormat.tail_samples, help="Draws of a sampled tail."
            ),
        ]
    ):
        with_targets = option(with_targets)
    return with_targets


def _corpus_options(command):
    """Options that say which teacher reads what, and how."""
    for option in reversed(
        [
            click.option(
                "--teacher", default=BuildConfig.teacher, help="Hub id, folder or .gguf file."
            ),
            click.option("--revision", help="Branch, tag or commit of the teacher on the hub."),
            click.option(
                "--dataset", default=BuildConfig.dataset, help="Hub id, or a JSON-lines file."
            ),
            click.option(
                "--split",
                "splits",
                multiple=True,
                default=BuildConfig.splits,
                type=click.Choice(list(SPLIT_TASK_IDS)),
                help="Repeat it for several.",
            ),
            click.option(
                "--template",
                default=BuildConfig.template,
                type=click.Choice(list(TEMPLATES)),
                help="How a problem becomes text.",
            ),
            click.option(
                "--max-length", default=BuildConfig.max_length, help="Longest document, in tokens."
            ),
            click.option(
                "--long-documents",
                default=BuildConfig.long_documents,
                type=click.Choice(LONG_DOCUMENTS),
                help="What happens to longer ones.",
            ),
            click.option(
                "--dtype",
                default=BuildConfig.dtype,
                type=click.Choice(DTYPE_NAMES),
                help="auto: bf16 on an accelerator, fp32 on the CPU.",
            ),
            click.option(
                "--device-map", default=BuildConfig.device_map, help="As in transformers."
            ),
            click.option(
                "--batch-tokens",
                default=BuildConfig.batch_tokens,
                help="Padded tokens of a teacher batch.",
            ),
            click.option("--limit", type=int, help="Only the first problems of each split."),
        ]
    ):
        command = option(command)
    return command


@main.command("cache-teacher")
@click.option(
    "--out", type=FOLDER, required=True, help="Cache directory; an unfinished one goes on."
)
@_corpus_options
@_target_options
@click.option(
    "--shard-tokens",
    default=BuildConfig.shard_tokens,
    help="Tokens of a shard: what a killed build loses at most.",
)
@click.option(
    "--bytes-per-token",
    type=float,
    help="First try target formats on a few rows, and take the truest of at most this size.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be cached; load no model.")
def cache_teacher(dry_run: bool, bytes_per_token: float | None, targets: TargetFormat, **options):
    """Run the teacher once and store its soft targets.

    A build that was stopped goes on with the same command.

    \b
    Example:
      python cli.py cache-teacher --teacher bigcode/starcoder2-3b --out runs/cache
      python cli.py cache-teacher --dataset examples/problems.jsonl --out runs/cache --dry-run
    """
    config = BuildConfig(targets=targets, **options)
    if bytes_per_token is not None:
        _require_unset([field.name for field in fields(TargetFormat)] + ["dry_run"])
    from cache.show import dry_run_table, summary_table

    if dry_run:
        from cache.plan import plan_build
        from cache.teacher import load_tokenizer

        tokenizer = load_tokenizer(config.teacher, config.revision)
        _print(dry_run_table(plan_build(config, tokenizer), config, len(tokenizer)))
        return
    if bytes_per_token is not None:
        from cache.progress import settings_progress
        from cache.recommend import with_recommended_targets

        with settings_progress() as on_setting:
            config = with_recommended_targets(config, bytes_per_token, on_setting=on_setting)
        click.echo(f"Targets: {config.targets.words()}.")
    from cache.build import build_cache

    _print(summary_table(build_cache(config)))


def _require_unset(names: list[str]) -> None:
    """Raise CacheError where the command line sets what --bytes-per-token decides."""
    context = click.get_current_context()
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise CacheError(
            f"--bytes-per-token chooses the targets itself; leave out {words}, or leave it out."
        )


@main.group("cache")
def cache_group():
    """Look into a cache, or check it."""


@cache_group.command("inspect")
@click.argument("directory", type=FOLDER)
@click.option("--split", help="Split of the example document.  [default: the first]")
@click.option("--document", default=0, help="Number of the example document.")
@click.option("--plot", type=FILE, help="Write fidelity by temperature to this PNG file.")
def cache_inspect(directory: Path, split: str | None, document: int, plot: Path | None):
    """Print identity, size, captured mass and an example document.

    \b
    Example:
      python cli.py cache inspect runs/cache
      python cli.py cache inspect runs/cache --plot fidelity.png
    """
    from transformers import AutoTokenizer

    from cache.reader import CacheReader
    from cache.show import inspect_tables

    with CacheReader(directory) as reader:
        tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
        split = split or reader.splits[0]
        _print(inspect_tables(reader, tokenizer, split=split, document=document))
        if plot is not None:
            from cache.plots import plot_fidelity

            plot_fidelity(reader.fidelity(), plot)
            click.echo(f"Plot: {plot}")


@cache_group.command("plan")
@_corpus_options
@click.option("--rows", default=4096, help="Rows to run; half fit tails, half measure.")
@click.option(
    "--temperature",
    "temperatures",
    type=float,
    multiple=True,
    default=(2.0,),
    help="Where to measure; repeat it for several. The highest decides.",
)
@click.option("--max-tv", type=float, help="Recommend the cheapest that is at least this true.")
@click.option("--bytes-per-token", type=float, help="Recommend the truest of at most this size.")
@click.option("--plot", type=FILE, help="Write sizes and fidelities to this PNG file.")
def cache_plan(
    rows: int,
    temperatures: tuple[float, ...],
    max_tv: float | None,
    bytes_per_token: float | None,
    plot: Path | None,
    **options,
):
    """Try target formats on a few rows of the teacher: bytes against fidelity.

    Nothing is cached. Total variation (TV) runs from 0 to 1.

    \b
    Example:
      python cli.py cache plan --teacher bigcode/starcoder2-3b --bytes-per-token 256
      python cli.py cache plan --temperature 1 --temperature 2 --max-tv 0.03 --plot plan.png
    """
    if max_tv is not None and bytes_per_token is not None:
        raise CacheError("Give one of --max-tv and --bytes-per-token.")
    config = BuildConfig(out=Path(), **options)
    from cache.progress import settings_progress
    from cache.recommend import plan_targets, recommend
    from cache.show import settings_table

    with settings_progress() as on_setting:
        settings = plan_targets(
            config, temperatures=temperatures, num_rows=rows, on_setting=on_setting
        )
    chosen = None
    if max_tv is not None or bytes_per_token is not None:
        chosen = recommend(settings, max_tv=max_tv, bytes_per_token=bytes_per_token)
    _print(settings_table(settings, chosen))
    if plot is not None:
        from cache.plots import plot_settings

        plot_settings(settings, chosen, plot)
        click.echo(f"Plot: {plot}")


@cache_group.command("verify")
@click.argument("directory", type=FOLDER)
@click.option("--live", type=int, help="Also run the teacher again on this many documents.")
@click.option("--seed", default=0, help="Of the choice of documents for --live.")
@click.option("--teacher", help="Teacher for --live.  [default: the cache's]")
@click.option("--device-map", default="auto", help="As in transformers, for --live.")
def cache_verify(
    directory: Path, live: int | None, seed: int, teacher: str | None, device_map: str
):
    """Check every checksum, shape, range and offset; exit code 1 on any fault.

    With --live, stored rows are also compared with what the teacher says now.

    \b
    Example:
      python cli.py cache verify runs/cache
      python cli.py cache verify runs/cache --live 20 --teacher bigcode/starcoder2-3b
    """
    from cache.verify import verify_cache

    faults = verify_cache(directory)
    for fault in faults:
        click.echo(f"{fault.path}: {fault.problem}")
    if faults:
        raise click.ClickException(
            f"{len(faults)} faults in {directory}. Copy those files again from where the cache "
            "came from, or delete them and manifest.json and build again with the same options."
        )
    click.echo(f"{directory} is sound.")
    if live is None:
        return
    from cache.live import verify_live

    report = verify_live(
        directory, num_documents=live, seed=seed, teacher=teacher, device_map=device_map
    )
    click.echo("\n".join(report.lines()))
    if report.faults:
        raise click.ClickException(
            f"{directory} does not hold what its teacher says. Build it again."
        )


@cache_group.command("merge")
@click.argument("out", type=FOLDER)
@click.argument("sources", nargs=-1, required=True, type=FOLDER)
def cache_merge(out: Path, sources: tuple[Path, ...]):
    """Make one cache at OUT of several complete ones that differ only in their problems.

    The SOURCES stay as they are. A merge that was stopped can be given again.

    \b
    Example:
      python cli.py cache merge runs/cache runs/cache-a runs/cache-b
    """
    from cache.merge import merge_caches

    shards = merge_caches(out, sources).plan.shards
    click.echo(
        f"Merged {len(sources)} caches into {out}: {sum(s.num_documents for s in shards):,} "
        f"documents, {sum(s.num_rows for s in shards):,} rows."
    )


@cache_group.command("reencode")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--top-k", type=int, help="Fewer entries a row.")
@click.option("--top-p", type=float, help="Fewer entries where they hold this much probability.")
@click.option("--logprob-bits", type=click.Choice([8, 16]), help="Fewer bits a logprob.")
@click.option("--tail", type=click.Choice(TAILS), help="A tail that the stored one can become.")
@click.option("--tail-rank", type=int, help="Coefficients of lowrank tails.")
@click.option("--tail-bytes", type=float, help="Bytes a row that they may take once coded.")
@click.option("--tail-samples", type=int, help="Draws of a sampled tail.")
def cache_reencode(source: Path, out: Path, **changes):
    """Make a cache at OUT of the one at SOURCE with other targets, without the teacher.

    Options left out are those of SOURCE. Entries, bits and the tail's shape can be given up; a
    cache with hidden tails can become any other.

    \b
    Example:
      python cli.py cache reencode runs/cache runs/smaller --top-k 8 --tail mass
      python cli.py cache reencode runs/hidden runs/lowrank --tail lowrank --tail-bytes 192
    """
    from cache.derive import changed_targets
    from cache.manifest import Manifest
    from cache.reencode import reencode_cache
    from cache.show import fidelity_table

    found = Manifest.read(source)
    manifest = reencode_cache(source, out, changed_targets(found.identity.targets, changes))
    _print(fidelity_table(manifest.fidelity))
    click.echo(
        f"{out} holds {manifest.identity.targets.words()}: {manifest.num_bytes:,} bytes, where "
        f"{source} has {found.num_bytes:,}."
    )


def _recipe_overrides(command):
    """Options that replace single fields of a recipe."""
    for option in reversed(
        [
            click.option("--student", help="44m, 202m, tiny or LAYERSxWIDTHxHEADS."),
            click.option("--temperature", type=float, help="1 to 4."),
            click.option("--alpha", type=float, help="Weight of the teacher's term, 0 to 1."),
            click.option("--epochs", type=int),
            click.option("--lr", type=float),
            click.option("--weight-decay", type=float),
            click.option("--clip", type=float, help="Largest gradient norm."),
            click.option("--dropout", type=float),
            click.option("--batch-size", type=int, help="Documents of a microbatch."),
            click.option("--accumulate", type=int, help="Microbatches of an optimizer step."),
            click.option("--loss-on", type=click.Choice(LOSS_ON), help="Which tokens count."),
            click.option("--precision", type=click.Choice(PRECISIONS)),
            click.option("--seed", type=int),
        ]
    ):
        command = option(command)
    return command


@main.command("train")
@click.option("--cache", type=FOLDER, required=True, help="Cache directory.")
@click.option("--recipe", "recipe_name", required=True, help="Name of a recipe.")
@click.option("--recipes", type=FILE, help="YAML file it stands in.  [default: those shipped]")
@click.option("--out", type=FOLDER, help="Run directory.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--wandb", type=WANDB_MODES, help="[default: disabled unless logged in]")
@click.option("--wandb-project", default=TrainConfig.wandb_project)
@_recipe_overrides
def train(
    cache: Path,
    recipe_name: str,
    recipes: Path | None,
    out: Path | None,
    resume: bool,
    wandb: str | None,
    wandb_project: str,
    **overrides,
):
    """Train one student from a cache; the teacher is not needed.

    Options left out are the recipe's.

    \b
    Example:
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5
      python cli.py train --cache runs/cache --recipe model_44m_t2.0_a0.5 --temperature 1.5 \\
          --out runs/warmer
    """
    given = {field: value for field, value in overrides.items() if value is not None}
    recipe = replace(find_recipe(recipe_name, recipes), **given)
    config = TrainConfig(
        cache=cache,
        recipe=recipe,
        out=out or Path("runs") / recipe.name,
        resume=resume,
        wandb=wandb,
        wandb_project=wandb_project,
    )
    from distill.show import summary_table
    from distill.train import train as run_training

    _print(summary_table(run_training(config)))


@main.command("sweep")
@click.option("--cache", type=FOLDER, required=True, help="Cache directory.")
@click.option(
    "--recipes",
    type=click.Path(path_type=Path),
    default=Path("starcoder2-mbpp"),
    help="YAML file of recipes, or the name of a shipped one.",
)
@click.option("--out", type=FOLDER, required=True, help="Gets one run directory a recipe.")
@click.option("--only", multiple=True, help="Name of a recipe to run; repeat it for several.")
@click.option("--wandb", type=WANDB_MODES, help="[default: disabled unless logged in]")
@click.option("--wandb-project", default=SweepConfig.wandb_project)
def sweep(**options):
    """Train every recipe of a file from one cache.

    Finished runs are skipped, unfinished ones go on; a failed run does not stop the others.

    \b
    Example:
      python cli.py sweep --cache runs/cache --recipes recipes/starcoder2-mbpp.yaml --out runs
    """
    config = SweepConfig(**options)
    from distill.sweep import sweep as run_sweep

    result = run_sweep(config)
    if result.failed:
        names = ", ".join(run.name for run in result.failed)
        raise click.ClickException(f"{len(result.failed)} of {len(result.runs)} failed: {names}.")


@main.command("evaluate")
@click.option("--checkpoints", multiple=True, type=FOLDER, help="Run directories: runs/*.")
@click.argument("more_checkpoints", nargs=-1, type=click.Path(path_type=Path))
@click.option("--teacher", help="Hub id, folder or .gguf file; runs live, for the ratios.")
@click.option("--revision", help="Branch, tag or commit of the teacher on the hub.")
@click.option(
    "--benchmark",
    default=BenchmarkConfig.benchmark,
    help="humaneval, mbpp, or a JSON-lines file of either kind.",
)
@click.option("--dataset", help="Where its problems come from: hub id or JSON-lines file.")
@click.option(
    "--template",
    default=BenchmarkConfig.template,
    type=click.Choice(list(TEMPLATES)),
    help="Prompt of MBPP problems.",
)
@click.option("--limit", type=int, help="Only the first problems.")
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
    help="Let models read HumanEval's prompts without their closing newline.",
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
    "--workers",
    type=int,
    default=os.cpu_count,
    show_default="one a core",
    help="Programs run at once.",
)
@click.option(
    "--self-check/--no-self-check",
    default=BenchmarkConfig.self_check,
    help="First prove that canonical solutions pass and empty bodies fail.",
)
@click.option("--timeout", default=BenchmarkConfig.timeout, help="Seconds a program may run.")
@click.option("--memory-mb", default=BenchmarkConfig.memory_mb, help="MiB a program may use.")
@click.option("--dtype", default=BenchmarkConfig.dtype, type=click.Choice(DTYPE_NAMES))
@click.option("--device", default=BenchmarkConfig.device, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--seed", default=BenchmarkConfig.seed)
@click.option("--wandb", default=BenchmarkConfig.wandb, type=WANDB_MODES)
@click.option("--wandb-project", default=BenchmarkConfig.wandb_project)
@click.option("--out", default=BenchmarkConfig.out, type=FOLDER, help="Gets the report.")
def evaluate(checkpoints: tuple[Path, ...], more_checkpoints: tuple[Path, ...], **options):
    """Benchmark checkpoints against the live teacher.

    The same command on the same --out goes on where it was stopped.

    \b
    Example:
      python cli.py evaluate --checkpoints runs/* --teacher bigcode/starcoder2-3b
    """
    config = BenchmarkConfig(checkpoints=(*checkpoints, *more_checkpoints), **options)
    from evaluation.benchmark import run_benchmark
    from evaluation.report import to_rich_table

    _print(to_rich_table(run_benchmark(config)))
    click.echo(f"Report: {config.out / 'results.md'}")


if __name__ == "__main__":
    main()
