"""The command `cache extend`."""

from pathlib import Path

import click

from cache.commands_build import FOLDER
from cache.config import BuildConfig
from cache.problems import SPLIT_TASK_IDS


@click.command("extend")
@click.argument("directory", type=FOLDER)
@click.option(
    "--split",
    "splits",
    multiple=True,
    required=True,
    type=click.Choice(list(SPLIT_TASK_IDS)),
    help="To add, or to add to; repeat it for several.",
)
@click.option(
    "--dataset", help="Hub id or JSON-lines file of the problems.  [default: the cache's]"
)
@click.option("--teacher", help="Where the teacher is now.  [default: the cache's]")
@click.option("--device-map", default=BuildConfig.device_map, help="As in transformers.")
@click.option("--shard-tokens", default=BuildConfig.shard_tokens, help="Tokens of a new shard.")
@click.option("--limit", type=int, help="Only the first problems of each split.")
def cache_extend(directory: Path, **options):
    """Run the teacher over more documents and add them to a complete cache.

    The teacher and every setting are the cache's own. Readers go on undisturbed; a call that was
    stopped goes on when it is given again.

    \b
    Example:
      python cli.py cache extend runs/cache --split test
      python cli.py cache extend runs/cache --split train --dataset more.jsonl
    """
    from cache.extend import extend_cache

    added = extend_cache(directory, **options)
    click.echo(
        f"Added {added.num_documents:,} documents, {added.num_rows:,} rows to {directory}; it has "
        f"{sum(s.num_rows for s in added.manifest.plan.shards):,} rows now. Push it again if "
        "others use a copy."
    )
