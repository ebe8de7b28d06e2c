"""A progress bar of lessons: samples, how many passed, tokens/s and when it ends."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from cache.machine.progress import Lines


class LessonProgress:
    """A bar on standard error; a line now and then where that is no terminal."""

    def __init__(self, *, total: int, done: int, passed: int):
        """A bar of `total` samples of which `done` were there before, `passed` of them right."""
        self._passed, self._tokens = passed, 0
        console = Console(stderr=True)
        self._lines = Lines(console, done)
        self._bar = Progress(
            TextColumn("samples"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TextColumn("[progress.remaining]ETA"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, words=self._words())

    def advance(self, samples: int, tokens: int) -> None:
        """Count samples that were drawn."""
        self._tokens += tokens
        words = self._words()
        self._bar.update(self._task, advance=samples, words=words)
        task = self._bar.tasks[0]
        self._lines.tell("samples", round(task.completed), round(task.total or 0), f", {words}")

    def judged(self, passed: int) -> None:
        """Count samples that passed."""
        self._passed += passed
        self._bar.update(self._task, words=self._words())

    def _words(self) -> str:
        elapsed = self._bar.tasks[0].elapsed if self._bar.tasks else None
        speed = f", {self._tokens / elapsed:,.0f} tokens/s" if elapsed and self._tokens else ""
        return f"{self._passed:,} passed{speed}"

    def __enter__(self) -> "LessonProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()
