"""The progress line of a push or a pull: bytes, bytes a second, time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cache.remote.remote import OnBytes


class Counters(NamedTuple):
    """What a transfer reports to."""

    on_bytes: OnBytes
    on_total: OnBytes


@contextmanager
def byte_progress(description: str) -> Iterator[Counters]:
    """Counters of a transfer; a bar on standard error, where that is a terminal.

    The bar appears when there is something to move.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(description, total=None, visible=False)
    with bar:
        yield Counters(
            on_bytes=lambda number: bar.advance(task, number),
            on_total=lambda total: bar.update(task, total=total, visible=total > 0),
        )
