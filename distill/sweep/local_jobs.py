"""Several students at once, each in a process of its own.

A process opens the cache itself: the bytes are in the system's page cache once for all of them.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch

from cache.machine.gpus import visible_gpus
from distill.settings.config import SweepConfig
from distill.settings.recipe import Recipe
from distill.sweep.board import Board
from distill.sweep.result import FAILED, RunOutcome
from distill.sweep.worker_process import STOP_SECONDS, config_to_json

REFRESH_SECONDS = 1.0
_ROOT = str(Path(__file__).resolve().parents[2])
# Not `-m`: that would look for modules in the working directory first.
_PROGRAM = (
    f"import sys; sys.path[0] = {_ROOT!r}; from distill.sweep.worker_process import main; main()"
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


def run_jobs(recipes: Sequence[Recipe], config: SweepConfig, board: Board) -> list[RunOutcome]:
    """Train recipes, `config.jobs` at a time, and report every change to the board.

    A run that fails or is killed is an outcome, and its place goes to the next one. However
    this function ends, no process of its own is left.
    """
    if not recipes:
        return []
    waiting, outcomes = deque(recipes), []
    workers = [
        Worker(config, place, config.out / f"worker-{number}.log")
        for number, place in enumerate(divide_machine(min(config.jobs, len(recipes))))
    ]
    try:
        for worker in workers:
            board.started(worker.train(waiting.popleft()), str(worker.place))
        while any(worker.recipe for worker in workers):
            for worker in _answering(workers):
                outcomes.append(worker.outcome())
                board.ended(outcomes[-1])
                if waiting:
                    board.started(worker.train(waiting.popleft()), str(worker.place))
            board.refresh()
    finally:
        _stop(workers)
    return outcomes


class Worker:
    """A process that trains one student at a time; started when it first has something to do."""

    def __init__(self, config: SweepConfig, place: Place, log: Path) -> None:
        self.config, self.place, self.log = config, place, log
        self.recipe: Recipe | None = None
        self.process: subprocess.Popen[str] | None = None

    def train(self, recipe: Recipe) -> str:
        """Begin to train; returns the recipe's name."""
        if self.process is None:
            self._start()
        self.recipe = recipe
        self._say(json.dumps(asdict(recipe)))
        return recipe.name

    def outcome(self) -> RunOutcome:
        """What became of the recipe; waits for it."""
        assert self.process is not None and self.process.stdout is not None and self.recipe
        recipe, self.recipe = self.recipe, None
        answer = self.process.stdout.readline()
        if answer.endswith("\n"):
            content: dict[str, Any] = json.loads(answer)
            outcome = RunOutcome(**{**content, "out": Path(content["out"])})
        else:
            outcome = RunOutcome(
                name=recipe.name,
                out=self.config.out / recipe.name,
                status=FAILED,
                error=_epitaph(self.process.wait(), self.log),
            )
        if outcome.status == FAILED:  # such a process ends; the next recipe gets a fresh one
            _stop([self])
        return outcome

    def _start(self) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.place.environment},
                start_new_session=True,  # Ctrl-C comes to this process alone, which stops them all
            )
        self._say(config_to_json(self.config))

    def _say(self, line: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which `outcome` will tell
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()


def _answering(workers: Sequence[Worker]) -> list[Worker]:
    """The busy workers that have answered or ended, after a while at most."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            if worker.recipe and worker.process is not None and worker.process.stdout is not None:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        return [key.data for key, _ in selector.select(REFRESH_SECONDS)]


def _stop(workers: Sequence[Worker]) -> None:
    """End the processes: those that train are interrupted, and killed if that takes too long."""
    started = [(worker, worker.process) for worker in workers if worker.process is not None]
    for worker, process in started:
        if worker.recipe:
            process.terminate()
        else:
            _close(process.stdin)
    for worker, process in started:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process.stdin)
        _close(process.stdout)
        worker.process = worker.recipe = None


def _close(pipe: IO[str] | None) -> None:
    with suppress(BrokenPipeError):  # what was not sent has no one to read it
        if pipe is not None:
            pipe.close()


def _epitaph(code: int, log: Path) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return (
        f"its process was ended {how} before it said why (SIGKILL is most often a lack of memory: "
        f"try fewer --jobs). The last line of {log}: {last}"
    )
