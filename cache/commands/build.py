"""The command `cache-teacher`, and the options that describe its job."""

import os
from dataclasses import fields

import click
from rich.console import Console

from cache.building.config import BuildConfig
from cache.building.workers import Worker, launched_worker, parse_worker
from cache.commands.options import (
    corpus_options,
    require_unset,
    target_options,
)
from cache.errors import CacheError
from cache.machine.click_options import FOLDER
from cache.machine.gpus import take_gpus
from cache.targets.format import TargetFormat


@click.command("cache-teacher")
@click.option(
    "--out", type=FOLDER, required=True, help="Cache directory; an unfinished one is resumed."
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
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="This process, or replicas of the teacher on a Ray cluster.",
)
@click.option("--workers", type=int, default=1, help="Of Ray: replicas at most.")
@click.option("--ray-address", help="Of Ray: the cluster.  [default: one of this machine]")
@click.option(
    "--gpus-per-worker",
    type=float,
    help="Of Ray: GPUs that a replica is spread over.  [default: 1 where there are any]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be cached; load no model.")
def cache_teacher(
    dry_run: bool,
    worker: str | None,
    engine: str,
    workers: int,
    ray_address: str | None,
    gpus_per_worker: float | None,
    bytes_per_token: float | None,
    targets: TargetFormat,
    **options,
):
    """Run the teacher once and store its soft targets.

    A build that was stopped resumes with the same command. Several processes may build one cache,
    each its part: see --worker.

    \b
    Example:
      python cli.py cache-teacher --teacher bigcode/starcoder2-3b --out runs/cache
      python cli.py cache-teacher --out runs/cache --worker 3/64
      python cli.py cache-teacher --out runs/cache --engine ray --ray-address auto --workers 64
      python cli.py cache-teacher --dataset examples/problems.jsonl --out runs/cache --dry-run
      python cli.py cache-teacher --dataset bigcode/starcoderdata --data-dir python --streaming \\
        --text-field content --max-length 1024 --max-tokens 10000000 --out runs/cache
    """
    config = BuildConfig(targets=targets, **options)
    if bytes_per_token is not None:
        names = [field.name for field in fields(TargetFormat)] + ["dry_run"]
        require_unset(names, "--bytes-per-token chooses the targets itself")
    if engine == "ray":
        require_unset(["worker", "bytes_per_token"], "--engine ray divides the work itself")
    else:
        names = ["workers", "ray_address", "gpus_per_worker"]
        require_unset(names, "these belong to --engine ray")
    part = parse_worker(worker) if worker else launched_worker(os.environ)
    if dry_run:
        _print_plan(config)
    elif engine == "ray":
        _build_on_ray(config, workers, ray_address, gpus_per_worker)
    elif part is not None:
        _build_as_worker(config, part, bytes_per_token)
    else:
        _build_here(config, bytes_per_token)


def _print_plan(config: BuildConfig) -> None:
    if config.corpus and config.corpus.max_tokens is None and config.limit is None:
        raise CacheError(
            "--dry-run would read the whole corpus. Give --max-tokens or --limit to count "
            "the first texts."
        )
    from cache.building.job import first_documents
    from cache.commands.tables import dry_run_table
    from cache.storage.layout import ShardLayout
    from cache.teacher.load import head_shape, load_tokenizer

    tokenizer = load_tokenizer(config.teacher, config.revision)
    rows, width = head_shape(config.teacher, config.revision)
    layout = ShardLayout(
        vocab_size=rows, targets=config.targets, tail_width=config.targets.tail_width(width)
    )
    with first_documents(config, tokenizer) as job:
        Console().print(dry_run_table(job, config, layout))


def _build_here(config: BuildConfig, bytes_per_token: float | None) -> None:
    from cache.building.local import build_cache
    from cache.commands.tables import summary_table

    teacher = None
    if bytes_per_token is not None:
        from cache.machine.progress import counted_progress
        from cache.tools.recommend import with_recommended_targets

        with counted_progress("trying settings", first="running the teacher") as on_setting:
            config, teacher = with_recommended_targets(
                config, bytes_per_token, on_setting=on_setting
            )
        click.echo(f"Targets: {config.targets.words()}.")
    Console().print(summary_table(build_cache(config, teacher=teacher)))


def _build_on_ray(
    config: BuildConfig, workers: int, address: str | None, gpus_per_worker: float | None
) -> None:
    from cache.building.ray_engine import RayConfig, build_on_ray
    from cache.commands.tables import summary_table

    cluster = RayConfig(workers=workers, address=address, gpus_per_worker=gpus_per_worker)
    Console().print(summary_table(build_on_ray(config, cluster)))


def _build_as_worker(config: BuildConfig, worker: Worker, bytes_per_token: float | None) -> None:
    if bytes_per_token is not None:
        raise CacheError(
            "--bytes-per-token tries settings, which several workers cannot do together.\n"
            "Find the options with `cache plan`, and give those to all workers."
        )
    take_gpus()
    from cache.building.local import build_as_worker
    from cache.commands.tables import summary_table

    done = build_as_worker(config, worker)
    click.echo(f"Worker {worker.rank}/{worker.count}: {done.num_new_rows:,} rows computed.")
    if done.summary is None:
        workers = ", ".join(f"{rank}/{worker.count}" for rank in sorted(done.missing)[:8])
        more = ", …" if len(done.missing) > 8 else ""
        click.echo(f"Shards still to come: {sum(done.missing.values())}, of {workers}{more}.")
    else:
        Console().print(summary_table(done.summary))
