"""The command `cache-teacher`, and the options that describe its job."""

import os
from dataclasses import fields
from functools import wraps
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from cache.config import DTYPE_NAMES, LONG_DOCUMENTS, TAILS, BuildConfig, TargetFormat
from cache.corpus_config import Corpus
from cache.errors import CacheError
from cache.templates import TEMPLATES
from cache.workers import parse_share, share_of_launch, take_gpus

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
    """Options that say which teacher reads what, and how; `corpus` is made of those about it."""

    @wraps(command)
    def with_corpus(**options):
        return command(**_with_corpus(options))

    for option in reversed(
        [
            click.option(
                "--teacher", default=BuildConfig.teacher, help="Hub id, folder or .gguf file."
            ),
            click.option("--revision", help="Branch, tag or commit of the teacher on the hub."),
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                default=(BuildConfig.dataset,),
                help="Hub id, or a JSON-lines file. Of a corpus also a folder or a .parquet, "
                ".csv or .txt file; repeat it for several.",
            ),
            click.option(
                "--split",
                "splits",
                multiple=True,
                help="Repeat it for several.  [default: train and validation; of a corpus, train]",
            ),
            click.option(
                "--text-field",
                help="Column of the texts: the dataset is a corpus, packed into documents of "
                "--max-length tokens.",
            ),
            click.option(
                "--weight",
                "weights",
                type=float,
                multiple=True,
                help="Of a corpus: share of the texts, once for each --dataset.  [default: even]",
            ),
            click.option(
                "--dataset-config",
                "names",
                multiple=True,
                help="Of a corpus: config name, for all datasets or once for each.",
            ),
            click.option(
                "--data-dir",
                "data_dirs",
                multiple=True,
                help="Of a corpus: folder inside the dataset, for all or once for each.",
            ),
            click.option(
                "--streaming", is_flag=True, help="Of a corpus: read it without downloading it."
            ),
            click.option(
                "--max-tokens", type=int, help="Of a corpus: end each split at so many tokens."
            ),
            click.option(
                "--validation-every",
                type=int,
                help="Of a corpus: hold out every so many texts as the split validation.",
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
            click.option(
                "--limit", type=int, help="Only the first problems, or texts, of each split."
            ),
        ]
    ):
        with_corpus = option(with_corpus)
    return with_corpus


def _with_corpus(options: dict) -> dict:
    """The options of a BuildConfig, `corpus` or `dataset` among them."""
    names = [field.name for field in fields(Corpus) if field.name != "sources"]
    asked = {name: options.pop(name) for name in names}
    sources, splits = options.pop("datasets"), options.pop("splits")
    if asked["text_field"] is None:
        given = _given(names) + (["datasets"] if len(sources) > 1 else [])
        if given:
            raise CacheError(
                f"{', '.join(_flag(name) for name in given)}: only a corpus takes so many.\n"
                "Name the column of its texts with --text-field, or leave it out."
            )
        return {**options, "dataset": sources[0], "splits": splits or BuildConfig.splits}
    _require_unset(["template", "long_documents"], "--text-field packs texts as they stand")
    if not _given(["datasets"]):
        raise CacheError("--text-field is given, but no dataset. Name one or more with --dataset.")
    corpus = Corpus(sources=sources, **asked)
    return {**options, "corpus": corpus, "splits": splits or ("train",)}


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
@click.option(
    "--worker",
    help="RANK/COUNT, as in 3/64: compute every 64th shard from the fourth on.  [default: that of "
    "torchrun, else all]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be cached; load no model.")
def cache_teacher(
    dry_run: bool,
    worker: str | None,
    bytes_per_token: float | None,
    targets: TargetFormat,
    **options,
):
    """Run the teacher once and store its soft targets.

    A build that was stopped goes on with the same command. Several processes may build one cache,
    each its share: see --worker.

    \b
    Example:
      python cli.py cache-teacher --teacher bigcode/starcoder2-3b --out runs/cache
      python cli.py cache-teacher --out runs/cache --worker 3/64
      python cli.py cache-teacher --dataset examples/problems.jsonl --out runs/cache --dry-run
      python cli.py cache-teacher --dataset bigcode/starcoderdata --data-dir python --streaming \\
        --text-field content --max-length 1024 --max-tokens 10000000 --out runs/cache
    """
    config = BuildConfig(targets=targets, **options)
    if bytes_per_token is not None:
        names = [field.name for field in fields(TargetFormat)] + ["dry_run"]
        _require_unset(names, "--bytes-per-token chooses the targets itself")
    share = parse_share(worker) if worker else share_of_launch(os.environ)
    if share is not None:
        if bytes_per_token is not None:
            raise CacheError(
                "--bytes-per-token tries settings, which several workers cannot do together.\n"
                "Find the options with `cache plan`, and give those to all workers."
            )
        take_gpus()
    from cache.show import dry_run_table, summary_table

    if dry_run:
        if config.corpus and config.corpus.max_tokens is None and config.limit is None:
            raise CacheError(
                "--dry-run would read the whole corpus. Give --max-tokens or --limit to count "
                "the first texts."
            )
        from cache.plan import first_documents
        from cache.teacher import load_tokenizer

        tokenizer = load_tokenizer(config.teacher, config.revision)
        with first_documents(config, tokenizer) as plan:
            Console().print(dry_run_table(plan, config, len(tokenizer)))
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
    if share is None:
        from cache.build import build_cache

        Console().print(summary_table(build_cache(config, teacher=teacher)))
        return
    from cache.build import build_share

    done = build_share(config, share, teacher=teacher)
    click.echo(f"Worker {share.rank}/{share.count}: {done.num_new_rows:,} rows computed.")
    if done.summary is None:
        click.echo(f"{done.num_missing} shards of other workers are still to come.")
    else:
        Console().print(summary_table(done.summary))


def _require_unset(names: list[str], reason: str) -> None:
    """Raise CacheError where the command line sets what another option decides."""
    given = _given(names)
    if given:
        words = ", ".join(_flag(name) for name in given)
        raise CacheError(f"{reason}; leave out {words}, or leave it out.")


def _given(names: list[str]) -> list[str]:
    context = click.get_current_context()
    return [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]


def _flag(name: str) -> str:
    """The option of a parameter, as users type it."""
    parameters = click.get_current_context().command.params
    return next(p.opts[0] for p in parameters if p.name == name)
