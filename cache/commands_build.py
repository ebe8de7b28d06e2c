"""The command `cache-teacher`, and the options that describe its job."""

from dataclasses import fields
from functools import wraps
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from cache.config import DTYPE_NAMES, LONG_DOCUMENTS, TAILS, BuildConfig, TargetFormat
from cache.errors import CacheError
from cache.problems import SPLIT_TASK_IDS
from cache.templates import TEMPLATES

FOLDER = click.Path(file_okay=False, path_type=Path)


def target_options(command):
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


def corpus_options(command):
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


@click.command("cache-teacher")
@click.option(
    "--out", type=FOLDER, required=True, help="Cache directory; an unfinished one goes on."
)
@corpus_options
@target_options
@click.option(
    "--shard-tokens",
    default=BuildConfig.shard_tokens,
    help="Tokens of a shard: what a killed build loses at most.",
)
@click.option(
    "--tail-from",
    type=FOLDER,
    help="Take the lowrank tail's basis of this cache, so that the two can be merged.",
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
        Console().print(dry_run_table(plan_build(config, tokenizer), config, len(tokenizer)))
        return
    teacher = None
    if bytes_per_token is not None:
        from cache.progress import counted_progress
        from cache.recommend import with_recommended_targets

        with counted_progress("trying settings", first="running the teacher") as on_setting:
            config, teacher = with_recommended_targets(
                config, bytes_per_token, on_setting=on_setting
            )
        click.echo(f"Targets: {config.targets.words()}.")
    from cache.build import build_cache

    Console().print(summary_table(build_cache(config, teacher=teacher)))


def _require_unset(names: list[str]) -> None:
    """Raise CacheError where the command line sets what --bytes-per-token decides."""
    context = click.get_current_context()
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise CacheError(
            f"--bytes-per-token chooses the targets itself; leave out {words}, or leave it out."
        )
