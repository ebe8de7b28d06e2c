"""The commands of the group `cache`: look into caches, plan, check, join and re-encode them."""

from pathlib import Path

import click
from rich.console import Console

from cache.building.config import BuildConfig
from cache.commands.extend import cache_extend
from cache.commands.options import corpus_options
from cache.commands.remote import cache_pull, cache_push
from cache.errors import CacheError
from cache.machine.click_options import FILE, FOLDER
from cache.targets.format import TAILS


@click.group("cache")
def cache_group():
    """Look into a cache, or check it."""


cache_group.add_command(cache_extend)


@cache_group.command("inspect")
@click.argument("directory")
@click.option("--split", help="Split of the example document.  [default: the first]")
@click.option("--document", default=0, help="Number of the example document.")
@click.option("--plot", type=FILE, help="Write fidelity by temperature to this PNG file.")
@click.option("--html", type=FILE, help="Write documents, token by token, to this HTML page.")
@click.option("--documents", default=8, show_default=True, help="How many, from --document on.")
def cache_inspect(
    directory: str,
    split: str | None,
    document: int,
    plot: Path | None,
    html: Path | None,
    documents: int,
):
    """Print identity, size, captured mass and an example document.

    The page of --html shows what the teacher expected at every token, and says what looks wrong:
    rows shifted against their tokens, a missing beginning or end of text.

    \b
    Example:
      python cli.py cache inspect runs/cache
      python cli.py cache inspect runs/cache --plot fidelity.png
      python cli.py cache inspect runs/cache --html cache.html --documents 20
    """
    from transformers import AutoTokenizer

    from cache.commands.tables import inspect_tables
    from cache.reading.reader import CacheReader
    from cache.remote.local_copy import local_cache

    with CacheReader(local_cache(directory, ())) as reader:
        tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
        split = split or reader.splits[0]
        if html is not None:
            from cache.page.page import write_page

            write_page(reader, tokenizer, html, split=split, first=document, count=documents)
        Console().print(inspect_tables(reader, tokenizer, split=split, document=document))
        if html is not None:
            click.echo(f"Page: {html}")
        if plot is not None:
            from cache.tools.plots import plot_fidelity

            plot_fidelity(reader.fidelity(), plot)
            click.echo(f"Plot: {plot}")


@cache_group.command("plan")
@corpus_options
@click.option("--rows", default=4096, help="Rows to run; half fit tails, half measure.")
@click.option(
    "--temperature",
    "temperatures",
    type=float,
    multiple=True,
    default=(2.0,),
    help="Where to measure; repeat it for several. The highest decides.",
)
@click.option(
    "--max-tv",
    type=float,
    help="Recommend the cheapest that is at least this true.  [default: 0.06]",
)
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

    Nothing is cached. Total variation (TV) runs from 0 to 1. Without --max-tv or --bytes-per-token,
    the cheapest is recommended whose TV cost students next to nothing.

    \b
    Example:
      python cli.py cache plan --teacher bigcode/starcoder2-3b --bytes-per-token 256
      python cli.py cache plan --temperature 1 --temperature 2 --max-tv 0.03 --plot plan.png
    """
    if max_tv is not None and bytes_per_token is not None:
        raise CacheError("Give one of --max-tv and --bytes-per-token.")
    config = BuildConfig(out=Path(), **options)
    from cache.commands.tables import settings_table
    from cache.machine.progress import counted_progress
    from cache.tools.recommend import recommend, try_formats

    with counted_progress("trying settings", first="running the teacher") as on_setting:
        settings = try_formats(
            config, temperatures=temperatures, num_rows=rows, on_setting=on_setting
        )
    chosen = recommend(settings, max_tv=max_tv, bytes_per_token=bytes_per_token)
    Console().print(settings_table(settings, chosen))
    if plot is not None:
        from cache.tools.plots import plot_settings

        plot_settings(settings, chosen, plot)
        click.echo(f"Plot: {plot}")


@cache_group.command("verify")
@click.argument("directory")
@click.option("--live", type=int, help="Also run the teacher again on this many documents.")
@click.option("--seed", default=0, help="Of the choice of documents for --live.")
@click.option("--teacher", help="Teacher for --live.  [default: the cache's]")
@click.option("--device-map", default="auto", help="As in transformers, for --live.")
def cache_verify(directory: str, live: int | None, seed: int, teacher: str | None, device_map: str):
    """Check every checksum, shape, range and offset; exit code 1 on any fault.

    With --live, stored rows are also compared with what the teacher says now, as a reader decodes
    them and field by field.

    \b
    Example:
      python cli.py cache verify runs/cache
      python cli.py cache verify runs/cache --live 20 --teacher bigcode/starcoder2-3b
    """
    from cache.remote.local_copy import local_cache
    from cache.tools.verify import verify_cache

    found = local_cache(directory, ())
    faults = verify_cache(found)
    for fault in faults:
        click.echo(f"{fault.path}: {fault.problem}")
    if faults:
        raise click.ClickException(
            f"{len(faults)} faults in {found}. Copy those files again from where the cache "
            "came from, or delete them and manifest.json and build again with the same options."
        )
    click.echo(f"{found} is sound.")
    if live is None:
        return
    from cache.tools.verify_live import verify_live

    report = verify_live(
        found, num_documents=live, seed=seed, teacher=teacher, device_map=device_map
    )
    click.echo("\n".join(report.lines()))
    if report.problems:
        raise click.ClickException(f"{found} does not hold what its teacher says. Build it again.")


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
    from cache.tools.merge import merge_caches

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
    from cache.commands.tables import fidelity_table
    from cache.storage.manifest import Manifest
    from cache.targets.derive import changed_targets
    from cache.tools.reencode import reencode_cache

    found = Manifest.read(source)
    manifest = reencode_cache(source, out, changed_targets(found.identity.targets, changes))
    Console().print(fidelity_table(manifest.fidelity))
    click.echo(
        f"{out} holds {manifest.identity.targets.words()}: {manifest.num_bytes:,} bytes, where "
        f"{source} has {found.num_bytes:,}."
    )


cache_group.add_command(cache_push)
cache_group.add_command(cache_pull)
