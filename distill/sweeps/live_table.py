"""What the terminal shows while several students train: one table that keeps changing.

Everything is read from the runs' own `metrics.jsonl`. Where the output is no terminal, a line is
printed for each start, each epoch and each end.
"""

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.live import Live
from rich.table import Table

from distill.run.progress import console, yardstick_words
from distill.run.run_folder import METRICS_FILE
from distill.sweeps.result import FAILED, RunOutcome
from distill.sweeps.run_size import RunSize

WAITING, RUNNING = "waiting", "running"
REFRESH_SECONDS = 0.5
"""Between two looks at what the runs have logged."""
COLUMNS = ("epoch", "step", "loss", "val KL", "tokens/s", "time left")


class LiveTable:
    """The state of every run of a sweep, as lines or as a table that a `with` block keeps."""

    def __init__(self, sizes: Sequence[RunSize], out: Path) -> None:
        self.views = {size.recipe.name: RunView(size, out) for size in sizes}
        self._first: tuple[float, float] | None = None  # tokens done, and when
        self._live = Live(console=console, refresh_per_second=2, get_renderable=self.render)

    def __enter__(self) -> "LiveTable":
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def started(self, name: str, where: str) -> None:
        """A run has begun, and uses this part of the machine."""
        view = self.views[name]
        view.status = RUNNING
        self._first = self._first or (self._tokens_done(), time.monotonic())
        self._say(f"{name}: started ({where}), {view.size.num_steps:,} steps")

    def ended(self, outcome: RunOutcome) -> None:
        """A run has come to an end, of whatever kind."""
        view = self.views[outcome.name]
        if view.read():
            self._say(f"{outcome.name}: {view.words()}")
        view.status = outcome.status
        self._say(f"{outcome.name}: {outcome.error or outcome.status}")

    def refresh(self) -> None:
        """Read what the runs have logged since."""
        for view in self.views.values():
            if view.status == RUNNING and view.read():
                self._say(f"{view.size.recipe.name}: {view.words()}")

    def render(self) -> Table:
        """Runs that train or have ended, the latest as far as the terminal has room."""
        by_status = [view.status for view in self.views.values()]
        counts = ", ".join(f"{by_status.count(s)} {s}" for s in dict.fromkeys(by_status))
        caption = f"{counts}; {self._time_left()} left"
        table = Table(box=box.SIMPLE, caption=caption, caption_justify="left")
        table.add_column("run", no_wrap=True)
        table.add_column("status")
        for heading in COLUMNS:
            table.add_column(heading, justify="right")
        begun = [view for view in self.views.values() if view.status != WAITING]
        begun.sort(key=lambda view: view.status == RUNNING)
        for view in begun[-max(1, console.height - 6) :]:
            style = {RUNNING: "bold", FAILED: "red"}.get(view.status)
            table.add_row(view.size.recipe.name, view.status, *view.cells(), style=style)
        return table

    def _time_left(self) -> str:
        if self._first is None:
            return "-"
        before, since = self._first
        done = self._tokens_done()
        left = sum(v.size.num_tokens for v in self.views.values() if v.status != FAILED) - done
        return _clock((time.monotonic() - since) * left / (done - before)) if done > before else "-"

    def _tokens_done(self) -> float:
        done = [view for view in self.views.values() if view.status != FAILED]
        return sum(view.size.num_tokens * view.step / view.size.num_steps for view in done)

    def _say(self, line: str) -> None:
        if not console.is_terminal:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


class RunView:
    """What one run has logged so far."""

    def __init__(self, size: RunSize, out: Path) -> None:
        self.size, self.status = size, WAITING
        self._path = out / size.recipe.name / METRICS_FILE
        self._inode: int | None = None
        self._offset = self._epochs_ended = 0
        self._trained: dict[str, Any] = {}
        self._validated: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None  # step, and when it was seen

    def read(self) -> bool:
        """Take in the lines that are new; whether an epoch has ended with them."""
        before = self._epochs_ended
        for line in self._new_lines():
            if "val_loss" in line:
                self._validated = line
            else:
                self._trained = line
            self._epochs_ended = self._ended_with(line)
        if self._trained and self._first is None and self.status == RUNNING:
            self._first = self._trained["step"], time.monotonic()
        return self._epochs_ended > before

    def _ended_with(self, line: dict[str, Any]) -> int:
        """Epochs that have ended with a line: an epoch's last validation ends it, or the first
        step of the next one where nothing is validated."""
        if "val_loss" not in line:
            return line["epoch"] - 1
        if line["step"] == self.size.num_steps:
            return self.size.num_epochs
        return line["step"] // self.size.steps_per_epoch

    @property
    def step(self) -> int:
        """The last optimizer step."""
        return self._trained.get("step", 0)

    def cells(self) -> list[str]:
        """Values of `COLUMNS`."""
        line = self._trained
        epoch, speed = line.get("epoch", 0), line.get("tokens_per_s")
        return [
            f"{epoch}/{self.size.num_epochs}",
            f"{self.step:,}/{self.size.num_steps:,}",
            _number(line.get("train_loss")),
            _number(self._validated.get("val_kl")),
            "-" if speed is None or self.status != RUNNING else f"{speed:,.0f}",
            self._time_left(),
        ]

    def words(self) -> str:
        """The same as a sentence, after an epoch."""
        _, step, loss, val_kl, speed, time_left = self.cells()
        validation = "" if val_kl == "-" else f", {yardstick_words(self._validated)}"
        return (
            f"epoch {self._epochs_ended}/{self.size.num_epochs}, step {step}, loss {loss}"
            f"{validation}, {speed} tokens/s, {time_left} left"
        )

    def _new_lines(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                # A run that goes on begins with a new file.
                inode = self._path.stat().st_ino
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _time_left(self) -> str:
        if self.status != RUNNING or self._first is None or self.step <= self._first[0]:
            return "-"
        first_step, since = self._first
        per_step = (time.monotonic() - since) / (self.step - first_step)
        return _clock((self.size.num_steps - self.step) * per_step)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
