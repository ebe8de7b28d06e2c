"""What is shown while a student trains: a bar, or lines where the output is no terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache.machine.progress import Lines

console = Console()

Step = TypeVar("Step")


class TrainProgress:
    """A bar over all steps with epoch, loss, tokens/s and time left; a line an epoch.

    Where the output is no terminal, a line now and then stands for the bar.
    """

    def __init__(
        self, name: str, *, num_epochs: int, num_steps: int, first_step: int, shown: bool
    ) -> None:
        self._name, self._num_epochs = name, num_epochs
        self._shown = shown
        self._num_steps, self._step = num_steps, first_step
        self._lines = Lines(console, first_step)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._progress.add_task(
            name, total=num_steps, completed=first_step, epoch="-", loss="-", speed="-"
        )

    def __enter__(self) -> "TrainProgress":
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def step(self, *, epoch: int, loss: float, tokens_per_s: float) -> None:
        """Move on by one optimizer step."""
        self._step += 1
        if self._shown:
            words = (
                f"epoch {epoch}/{self._num_epochs}, loss {loss:.3f}, {tokens_per_s:,.0f} tokens/s"
            )
            self._lines.tell("step", self._step, self._num_steps, f", {words}")
        self._progress.update(
            self._task,
            advance=1,
            epoch=f"{epoch}/{self._num_epochs}",
            loss=f"{loss:.3f}",
            speed=f"{tokens_per_s:,.0f}",
        )

    def validation(self, steps: Iterable[Step], total: int) -> Iterator[Step]:
        """Pass on the steps of a validation, and tell how many are done; its time is its own."""
        lines = Lines(console)
        for done, step in enumerate(steps):
            yield step
            self._progress.update(
                self._task, description=f"{self._name}, validation {done + 1}/{total}"
            )
            if self._shown:
                lines.tell("validation", done + 1, total)
        self._progress.update(self._task, description=self._name)
        self._lines.begin(self._step)

    def epoch(self, epoch: int, losses: dict[str, float]) -> None:
        """Print the losses of a finished epoch, named as in `TrainResult.losses`; 0 is none yet."""
        if self._shown:
            parts = [yardstick_words(losses)] if "val_kl" in losses else []
            parts += [
                f"{label} {losses[f'{part}_loss']:.3f} (distillation "
                f"{losses[f'{part}_distillation_loss']:.3f}, "
                f"cross-entropy {losses[f'{part}_ce_loss']:.3f})"
                for part, label in (("train", "train"), ("val", "validation"))
                if f"{part}_loss" in losses
            ]
            when = f"epoch {epoch}/{self._num_epochs}" if epoch else "before the first step"
            self._print(f"{when}: {', '.join(parts)}")

    def measured(self, step: int, losses: dict[str, float]) -> None:
        """Print what a validation within an epoch has found, named as in `TrainResult.losses`."""
        if self._shown:
            self._print(f"step {step:,}/{self._num_steps:,}: {yardstick_words(losses)}")

    def _print(self, line: str) -> None:
        self._progress.console.print(line, soft_wrap=True, highlight=False)


def yardstick_words(values: dict[str, float]) -> str:
    """What compares runs of any recipes, in half a line."""
    return (
        f"validation KL {values['val_kl']:.3f}, cross-entropy "
        f"{values['val_cross_entropy']:.3f}, top-1 {values['val_top1']:.1%}"
    )
