"""Progress bars of an evaluation, one for each model and stage."""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cache.machine.progress import Lines

StageProgress = Callable[[str, int, int], None]
"""Called with a stage, how much of it was done just now, and its total."""


class Stages:
    """A live display on standard error; a stage appears when it is first reported."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._console = console
        self._lines: dict[tuple[str, str], Lines] = {}
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> "Stages":
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.stop()

    def __call__(self, label: str, stage: str, advance: int, total: int) -> None:
        """Report that a stage of a model has come on by this much of its total."""
        task = self._tasks.get((label, stage))
        if task is None:
            task = self._display.add_task(f"{label}  {stage}", total=total)
            self._tasks[label, stage] = task
            self._lines[label, stage] = Lines(self._console, done=advance)
        self._display.advance(task, advance)
        done = round(self._display.tasks[task].completed)
        self._lines[label, stage].tell(f"{label}  {stage}", done, total)

    def of(self, label: str) -> StageProgress:
        """The reporting function of one model."""
        return lambda stage, advance, total: self(label, stage, advance, total)
