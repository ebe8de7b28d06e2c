"""Several students at once, each in a process of its own.

A process opens the cache itself: the bytes are in the system's page cache once for all of them.
What became of a student stands in its run's directory, and why it failed at the end of its log.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from cache.machine.gpus import visible_gpus
from distill.run.run_folder import read_run
from distill.settings.config import SweepConfig
from distill.settings.recipe import Recipe
from distill.sweeps.live_table import REFRESH_SECONDS, LiveTable
from distill.sweeps.result import FAILED, RunOutcome
from distill.sweeps.run_recipe import log_path, outcome_of, train_config
from distill.sweeps.student_process import FAILED_BECAUSE, STOP_SECONDS

_ROOT = str(Path(__file__).resolve().parents[2])
# Not `-m`: that would look for modules in the working directory first.
_PROGRAM = (
    f"import sys; sys.path[0] = {_ROOT!r}; from distill.sweeps.student_process import main; main()"
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one of the processes may use."""

    gpu: str | None
    """Its only GPU, as CUDA_VISIBLE_DEVICES names it; None on CPUs."""
    num_threads: int
    """CPU threads of torch."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that keep a process to it."""
        pinned = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {**pinned, "OMP_NUM_THREADS": str(self.num_threads)}

    def __str__(self) -> str:
        return f"CPU threads: {self.num_threads}" if self.gpu is None else f"GPU {self.gpu}"


def divide_machine(num_jobs: int) -> list[Place]:
    """A place for each of `num_jobs` processes: GPUs in turn, and an even share of the threads."""
    gpus = visible_gpus(os.environ, torch.cuda.device_count())
    num_threads = max(1, torch.get_num_threads() // num_jobs)
    return [
        Place(gpu=gpus[job % len(gpus)] if gpus else None, num_threads=num_threads)
        for job in range(num_jobs)
    ]


def run_jobs(recipes: Sequence[Recipe], config: SweepConfig, table: LiveTable) -> list[RunOutcome]:
    """Train recipes, `config.jobs` at a time, and report every change to the table.

    A run that fails or is killed is an outcome, and its place goes to the next one. However
    this function ends, no process of its own is left.
    """
    if not recipes:
        return []
    waiting, free = deque(recipes), deque(divide_machine(min(config.jobs, len(recipes))))
    running: list[Student] = []
    outcomes = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(Student(waiting.popleft(), config, free.popleft()))
                table.started(running[-1].recipe.name, str(running[-1].place))
            time.sleep(REFRESH_SECONDS)
            for student in [one for one in running if one.process.poll() is not None]:
                running.remove(student)
                free.append(student.place)
                outcomes.append(student.outcome())
                table.ended(outcomes[-1])
            table.refresh()
    finally:
        _stop(running)
    return outcomes


class Student:
    """A process that trains one recipe, from its start on."""

    def __init__(self, recipe: Recipe, config: SweepConfig, place: Place) -> None:
        self.recipe, self.place = recipe, place
        self.out, self.log = config.out / recipe.name, log_path(recipe, config)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **place.environment},
                start_new_session=True,  # Ctrl-C comes to this process alone, which stops them all
            )
        assert self.process.stdin is not None
        self.input = self.process.stdin
        with suppress(BrokenPipeError):  # it has ended, which `outcome` will tell
            self.input.write(pickle.dumps(train_config(recipe, config)))

    def outcome(self) -> RunOutcome:
        """What became of the recipe; waits for it."""
        code = self.process.wait()
        self.input.close()
        run = read_run(self.out) if code == 0 else None
        if run is not None:
            return outcome_of(run, self.out)
        error = _reason(code, self.log)
        return RunOutcome(name=self.recipe.name, out=self.out, status=FAILED, error=error)


def _stop(students: Sequence[Student]) -> None:
    """End the processes: each is interrupted, and killed if it takes too long to end its logs."""
    for student in students:
        student.input.close()
    for student in students:
        try:
            student.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            student.process.kill()
            student.process.wait()


def _reason(code: int, log: Path) -> str:
    """The sentence with which a log ends; else how the process was ended, and its last line."""
    text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    _, found, reason = f"\n{text}".rpartition(f"\n{FAILED_BECAUSE}")
    if found and code > 0:
        return reason
    unwritten = _write_failure(log)
    if unwritten:
        return f"{log} could not be written: {unwritten}. It would have said why."
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    guess = " (most often a lack of memory: try fewer --jobs)" if code == -signal.SIGKILL else ""
    last_line = text.rpartition("\n")[2] or "nothing"
    said = f"its process was ended {how} before it said why{guess}"
    return f"{said}. The last line of {log}: {last_line}"


def _write_failure(log: Path) -> str:
    """Why a process could not tell its log anything; empty if it could."""
    try:
        with log.open("ab") as file:
            file.write(b"\n")
    except OSError as error:
        return error.strerror or str(error)
    return ""
