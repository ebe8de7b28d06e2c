"""The command `cache extend`."""

from functools import partial
from pathlib import Path

import click

from cache.building.config import BuildConfig
from cache.commands.options import data_options, require_given
from cache.errors import CacheError
from cache.machine.click_options import FOLDER


@click.command("extend")
@click.argument("directory", type=FOLDER)
@partial(data_options, default=None)
@click.option("--teacher", help="Where the teacher is now.  [default: the cache's]")
@click.option("--device-map", default=BuildConfig.device_map, help="As in transformers.")
@click.option("--shard-tokens", default=BuildConfig.shard_tokens, help="Tokens of a new shard.")
def cache_extend(directory: Path, **options):
    """Run the teacher over more documents and add them to a complete cache.

    The teacher and every setting are the cache's own, and so is the dataset unless another is
    named. Readers go on undisturbed; a call that was stopped resumes when it is given again.

    \b
    Example:
      python cli.py cache extend runs/cache --split test
      python cli.py cache extend runs/cache --split train --dataset more.jsonl
      python cli.py cache extend runs/texts --split train --dataset more.parquet \\
        --text-field content
      python cli.py cache extend runs/texts --split train --dataset texts.jsonl \\
        --text-field content --skip 50000
    """
    require_given("splits", "A cache is extended by what is named")
    if options.pop("mixture", None) is not None:
        raise CacheError("A cache is extended by one dataset of problems at a time; name one.")
    from cache.tools.extend import extend_cache

    added = extend_cache(directory, **options)
    click.echo(
        f"Added {added.num_documents:,} documents, {added.num_rows:,} rows to {directory}; it has "
        f"{sum(s.num_rows for s in added.manifest.plan.shards):,} rows now. Push it again if "
        "others use a copy."
    )
