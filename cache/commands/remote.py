"""The commands `cache push` and `cache pull`."""

from pathlib import Path

import click

from cache.machine.click_options import FOLDER

_jobs = click.option("--jobs", type=click.IntRange(1), default=8, help="Files moved at once.")


@click.command("push")
@click.argument("directory", type=FOLDER)
@click.argument("url")
@_jobs
@click.option("--replace", is_flag=True, help="Overwrite what is there, and trust none of it.")
@click.option("--verify", is_flag=True, help="Read back what is there: damaged files move again.")
@click.option(
    "--teacher-license",
    help="For the card.  [default: what the hub or the teacher's README.md says]",
)
@click.option("--data-license", help="For the card.  [default: what the hub says of the dataset]")
def cache_push(
    directory: Path,
    url: str,
    jobs: int,
    replace: bool,
    verify: bool,
    teacher_license: str | None,
    data_license: str | None,
):
    """Copy a complete cache to a URL (s3://, gs://, hf://datasets/, ssh://) or a folder.

    Only what is missing or different moves; a push that was stopped can be given again. The
    manifest comes last, and a README.md with it. docs/sharing.md says where credentials go.

    \b
    Example:
      python cli.py cache push runs/cache s3://bucket/starcoder2-mbpp
      python cli.py cache push runs/cache hf://datasets/org/name --data-license cc-by-4.0
    """
    from cache.machine.progress import byte_progress
    from cache.remote.card import cache_card, find_license
    from cache.remote.push import push
    from cache.storage.manifest import Manifest

    manifest = Manifest.read(directory)
    card = cache_card(
        manifest,
        url,
        teacher_license=teacher_license or find_license(manifest.identity.teacher, kind="model"),
        data_license=data_license or find_license(manifest.identity.dataset, kind="dataset"),
    )
    with byte_progress(f"pushing {directory}") as (on_bytes, on_total):
        done = push(
            directory,
            url,
            card=card,
            jobs=jobs,
            replace=replace,
            verify=verify,
            on_bytes=on_bytes,
            on_total=on_total,
        )
    click.echo(f"{url} is complete: {done.words()}.")


@click.command("pull")
@click.argument("url")
@click.argument("directory", type=FOLDER)
@click.option("--split", "splits", multiple=True, help="Only this split's shards; repeat it.")
@_jobs
def cache_pull(url: str, directory: Path, splits: tuple[str, ...], jobs: int):
    """Copy a cache from a URL or folder to a directory; every byte is checked.

    Only what is missing or different moves; a pull that was stopped can be given again.

    \b
    Example:
      python cli.py cache pull s3://bucket/starcoder2-mbpp runs/cache
      python cli.py cache pull hf://datasets/org/name runs/cache --split train
    """
    from cache.machine.progress import byte_progress
    from cache.remote.pull import pull

    with byte_progress(f"pulling {url}") as (on_bytes, on_total):
        done = pull(url, directory, splits=splits, jobs=jobs, on_bytes=on_bytes, on_total=on_total)
    click.echo(f"{directory} is complete: {done.words()}.")
