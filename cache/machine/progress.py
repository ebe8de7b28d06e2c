"""Progress on standard error: of stage one, of anything counted, of bytes that move.

A bar in a terminal; elsewhere a line now and then.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_SECONDS = 10.0
"""Between two lines, where the output is no terminal."""


class Lines:
    """What stands for a bar where the output is no terminal: a line every ten seconds."""

    def __init__(self, console: Console, done: int = 0):
        """Of work of which so much was done before."""
        self._console = console
        self.begin(done)

    def begin(self, done: int) -> None:
        """Count time and work from here on, as other work begins."""
        self._first = done
        self._began = self._last = time.monotonic()

    def tell(self, what: str, done: int, total: int | None, words: str = "") -> None:
        """Print how far it is, unless a line was printed shortly before or there is a bar.

        Of work whose total nobody knows (None), only how much is done.
        """
        now = time.monotonic()
        if self._console.is_terminal or now - self._last < LINE_SECONDS:
            return
        self._last = now
        line = f"{what} {done:,}"
        if total is None:
            line += words
        else:
            seconds = (now - self._began) * (total - done) / max(done - self._first, 1)
            line += f"/{total:,}{words}, {timedelta(seconds=round(seconds))} left"
        self._console.print(line, soft_wrap=True, highlight=False)


class BuildProgress:
    """A progress bar over rows, on standard error."""

    def __init__(self, *, total: int, done: int):
        """A bar of `total` rows of which `done` were there before."""
        self._pending: list[tuple[Path, int]] = []
        self._num_bytes = self._num_rows = 0
        self._new_rows = 0
        console = Console(stderr=True)
        self._lines = Lines(console, done)
        self._bar = Progress(
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}{task.fields[size]}"),
            TextColumn("[progress.remaining]ETA"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, speed="", size="")

    def advance(self, num_rows: int) -> None:
        """Count rows that the teacher has computed."""
        self._new_rows += num_rows
        elapsed = self._bar.tasks[0].elapsed
        speed = f"{self._new_rows / elapsed:,.0f} tokens/s" if elapsed else ""
        size = self._size()
        self._bar.update(self._task, advance=num_rows, speed=speed, size=size)
        done, total = round(self._bar.tasks[0].completed), round(self._bar.tasks[0].total or 0)
        self._lines.tell("rows", done, total, f", {speed}{size}" if speed else "")

    def shard_done(self, path: Path, num_rows: int) -> None:
        """Note a shard that is being written; its size counts once the file is there."""
        self._pending.append((path, num_rows))

    def _size(self) -> str:
        while self._pending and self._pending[0][0].is_file():
            path, num_rows = self._pending.pop(0)
            self._num_bytes += path.stat().st_size
            self._num_rows += num_rows
        return f", {self._num_bytes / self._num_rows:.0f} bytes/token" if self._num_rows else ""

    def __enter__(self) -> "BuildProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()


OnCounted = Callable[[int, int | None], None]
"""Called with how much is done, of how much; None where nobody knows how much there is."""


@contextmanager
def counted_progress(description: str, *, first: str) -> Iterator[OnCounted]:
    """A bar on standard error; the block calls it with how much is done, of how much.

    Until it does, `first` stands there instead of the description. Where it is called with another
    total, or with less done, other work has begun, whose time is counted anew.
    """
    console = Console(stderr=True)
    lines = Lines(console)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("[progress.remaining]ETA"),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(first, total=None)

    def update(done: int, total: int | None) -> None:
        before = bar.tasks[task]
        if total != before.total or done < before.completed:
            lines.begin(done)
        lines.tell(description, done, total)
        bar.update(task, description=description, completed=done, total=total)

    with bar:
        yield update


OnBytes = Callable[[int], None]
"""Called with how many bytes have moved since the last call."""


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
