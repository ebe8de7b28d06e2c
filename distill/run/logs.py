"""What a run says about itself while it runs: lines of JSON, and Weights & Biases."""

import json
import math
import netrc
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.machine.durable import write_text
from distill.errors import DistillError
from distill.run.checkpoint_folder import CHECKPOINTS
from distill.run.failures import explained
from distill.run.run_folder import METRICS_FILE, SAMPLES_FILE
from distill.settings.config import TrainConfig


class StepLog:
    """A file of JSON objects, one a line, each of a step: `metrics.jsonl`, for each step and each
    validation, and `samples.jsonl`, for each completion of a validation."""

    def __init__(self, path: Path, *, last_step: int | None) -> None:
        """Go on after `last_step`: what a run wrote past its checkpoint will come again.

        Without a checkpoint, which is None, all of it will.
        """
        before = read_metrics(path)
        steps = sorted({line["step"] for line in before})
        self.complete_step: int | None = steps[-2] if len(steps) > 1 else None
        """The last step in the file, before it was cut, to which no further line could come."""
        kept = [line for line in before if last_step is not None and line["step"] <= last_step]
        self._checkpoints = path.parent / CHECKPOINTS
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept), DistillError)
        self._file = path.open("a", encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, which JSON has a word for.

        Raises:
            DistillError: it cannot be written, as on a full disk.
        """
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with explained(self._file.name, checkpoints=self._checkpoints):
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force all lines to disk, before a checkpoint that relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a line that could not be written has been complained about."""
        with suppress(OSError):
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; one that a killed run left half-written is passed over."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


class RunLogs:
    """All that a run logs, in files and in Weights & Biases."""

    def __init__(self, metrics: StepLog, samples: StepLog | None, wandb: "WandbLog") -> None:
        """`samples` is None where there are none."""
        self._metrics, self._samples, self._wandb = metrics, samples, wandb

    def write(self, values: dict[str, Any]) -> None:
        """Metrics of a step.

        Raises:
            DistillError: they cannot be written, as on a full disk.
        """
        self._metrics.write(values)
        self._wandb.write(values)

    def write_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        """What the student writes after a step; raises as `write`."""
        if self._samples is not None:
            for sample in samples:
                self._samples.write({"step": step, **sample})
            self._wandb.write_table(step, "samples", samples)

    def sync(self) -> None:
        """Force all to disk and away, before a checkpoint that relies on it."""
        self._metrics.sync()
        if self._samples is not None:
            self._samples.sync()
        self._wandb.send()


class WandbLog:
    """The same values in Weights & Biases, or nowhere if the mode is `disabled`.

    The run's steps are those of W&B, which takes none twice: a resumed run's repeated steps
    change nothing there. So all lines of a step, the validation after it too, are sent as one
    row, once nothing more can come to it.
    """

    def __init__(
        self,
        *,
        mode: str,
        project: str,
        name: str,
        run_id: str,
        folder: Path,
        config: dict,
        group: str | None = None,
        logged_step: int | None = None,
    ) -> None:
        """`logged_step`: the last one sent before this process, wherever the checkpoint is."""
        self._run = None
        self._row: dict[str, Any] = {}
        # Online, W&B knows better than a file that may be ahead of what reached it.
        self._logged_step = logged_step if mode == "offline" else None
        if mode == "disabled":
            return
        import wandb  # takes a second, and most runs on a workstation do without

        self._run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=project,
            name=name,
            group=group,
            id=run_id,
            resume="allow" if mode == "online" else None,
            dir=str(folder),  # older releases take no Path
            config=config,
            settings=wandb.Settings(silent=True),
        )

    def write(self, values: dict[str, Any]) -> None:
        """Take one line of metrics; lines of one step become one row."""
        if self._logged_step is not None and values["step"] <= self._logged_step:
            return
        if self._row and values["step"] != self._row["step"]:
            self.send()
        self._row = {**self._row, **values}

    def write_table(self, step: int, name: str, rows: list[dict[str, Any]]) -> None:
        """Take rows of equal keys as a table of a step."""
        if self._run is not None and rows:
            import wandb

            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self.write({"step": step, name: table})

    def send(self) -> None:
        """Send the row of the last step: it is complete."""
        if self._run is not None and self._row:
            self._run.log(self._row, step=self._row["step"], commit=True)
        self._row = {}

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *rest: object) -> None:
        """End the run, and mark it as failed if the block did: its last row will come again."""
        if error_type is None:
            self.send()
        if self._run is not None:
            self._run.finish(exit_code=0 if error_type is None else 1)


@contextmanager
def open_logs(
    config: TrainConfig, run: dict[str, Any], *, last_step: int | None, has_samples: bool
) -> Iterator[RunLogs]:
    """The logs of a run, until the block ends.

    Args:
        run: the content of its `run.json`.
        last_step: of the checkpoint that it goes on from, as `StepLog`.
        has_samples: whether `samples.jsonl` is among them.
    """
    with ExitStack() as stack:

        def open_file(name: str) -> StepLog:
            return stack.enter_context(closing(StepLog(config.out / name, last_step=last_step)))

        metrics = open_file(METRICS_FILE)
        samples = open_file(SAMPLES_FILE) if has_samples else None
        wandb = WandbLog(
            mode=wandb_mode(config.wandb),
            project=config.wandb_project,
            group=config.wandb_group,
            name=config.recipe.name,
            run_id=run["wandb_id"],
            folder=config.out,
            config={"recipe": asdict(config.recipe), "cache": run["cache"]},
            logged_step=metrics.complete_step,
        )
        yield RunLogs(metrics, samples, stack.enter_context(wandb))


def wandb_mode(asked: str | None) -> str:
    """`online`, `offline` or `disabled`.

    What was asked for; else what `WANDB_MODE` says; else online where an account is set up
    (`WANDB_API_KEY`, or `wandb login` was run), and disabled where none is.
    """
    if asked is not None:
        return asked
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_knows_wandb() else "disabled"


def _netrc_knows_wandb() -> bool:
    try:
        return "api.wandb.ai" in netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
