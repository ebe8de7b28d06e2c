"""Runs that are killed and gone on with, and runs that two processes share, each in FOLDER/name.

For a process that has imported this module and in which torch has computed nothing: its children
are forked to save the imports, which is safe only there. They draw no curves.
"""

import gc
import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

import distill.run.checkpoint
import distill.run.checkpoint_folder
import distill.run.run_folder
import distill.run.train
import distill.sweeps.sweep
from cache.machine.lock import writer_lock
from distill.errors import DistillError
from distill.learning.learner import Learner
from distill.run.run_folder import FINISHED, read_run
from distill.run.train import train
from distill.settings.config import SweepConfig, TrainConfig
from tests.support.distill_fakes import FakeReader, small_recipe
from tests.support.learners import batches, gradient, make_learner

MOMENTS = (
    "first_epoch",
    "mid_epoch",
    "mid_step",
    "mid_checkpoint",
    "between_checkpoints",
    "mid_finish",
)
MICROBATCHES = [[0, 1], [2], [3, 4], [5, 6]]
"""Documents of a step whose first three microbatches go to one process and the last to another."""
UNEVEN = {"dropout": 0.0, "accumulate": 3, "epochs": 2}
"""Three microbatches a step: the second process goes without in half of the turns."""
PACKED = {
    "dropout": 0.0, "batching": "packed", "epochs": 2,
    "validate_every": 4, "validation_documents": 5, "sample_prompts": 1,
}  # fmt: skip
"""Documents of a step end to end in rows: the second process often goes without. Validations
within epochs too, on a part of the split, with completions of the main process."""

VALIDATED = {"epochs": 2, "lr": 1e-2, "validate_every": 5, "sample_prompts": 1}
"""Validations and completions after steps 5, 6, 10 and 12, checkpoints of steps 4, 6, 10 and 12."""
SWEPT = """
defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, epochs: 1, sample_prompts: 0}
recipes: [{name: only}]
"""


def train_whole(folder: Path, name: str, recipe: dict[str, object]) -> None:
    """One process, in one go."""
    assert wait(start(train_here, folder, name, **recipe)) == 0


def train_pair(folder: Path, name: str, recipe: dict[str, object]) -> None:
    """Two processes, in one go."""
    assert [wait(child) for child in start_pair(train_here, folder, name, **recipe)] == [0, 0]


def kill_at(folder: Path, moment: str) -> None:
    """FOLDER/moment is killed at that moment and gone on with."""
    assert wait(start(train_here, folder, moment, moment)) == -signal.SIGKILL
    train_whole(folder, moment, {})


def kill_after_validation(folder: Path, name: str) -> None:
    """FOLDER/name is killed between a validation and the next checkpoint, and gone on with."""
    assert wait(start(train_here, folder, name, name, **VALIDATED)) == -signal.SIGKILL
    assert [path.name for path in (folder / name).glob("best-of-step-*")] == [
        "best-of-step-00000005"
    ]
    train_whole(folder, name, VALIDATED)


def kill_at_random(folder: Path, name: str, times: int) -> None:
    """Kill a run from outside at random moments, and go on with it to its end."""
    began = time.monotonic()
    train_whole(folder, f"{name}_timed", {})
    seconds = time.monotonic() - began
    for _ in range(times):
        child = start(train_here, folder, name)
        time.sleep(random.uniform(0.05, 0.8) * seconds)
        os.kill(child, signal.SIGKILL)
        ended, run = wait(child), read_run(folder / name)
        if not ended or (run is not None and run["status"] == FINISHED):
            return  # it had finished before
    train_whole(folder, name, {})


def kill_pair(folder: Path, name: str, moment: str, recipe: dict[str, object]) -> None:
    """Two processes share a run; one is killed, and the other one fails or is killed too."""
    assert all([wait(c) for c in start_pair(train_here, folder, name, moment, **recipe)])


def resume_pair(folder: Path, name: str) -> None:
    """A pair that is killed, and another one that goes on."""
    kill_pair(folder, name, "mid_step", {})
    train_pair(folder, name, {})


def hand_over(folder: Path, name: str) -> None:
    """A pair that is killed, and one process that goes on."""
    kill_pair(folder, name, "mid_checkpoint", UNEVEN)
    train_whole(folder, name, UNEVEN)


def sweep_pair(folder: Path, name: str) -> None:
    """Two processes share a sweep."""
    assert [wait(child) for child in start_pair(sweep_here, folder, name)] == [0, 0]


def find_it_taken(folder: Path, name: str) -> None:
    """A pair finds that another process trains in FOLDER/name: both fail, and say why."""
    (folder / name).mkdir()
    with writer_lock(folder / name):
        assert [wait(child) for child in start_pair(note_failure, folder, name)] == [0, 0]


def note_failure(folder: Path, name: str) -> None:
    """FOLDER/name-RANK.txt gets the reason why FOLDER/name cannot be trained."""
    try:
        train_here(folder, name)
    except DistillError as error:
        (folder / f"{name}-{os.environ['RANK']}.txt").write_text(str(error))


def sweep_here(folder: Path, name: str) -> None:
    """A sweep of one recipe, in this process, which is a child."""
    distill.run.train.plot_run = lambda *args: None
    for part in ("plot_runs", "plot_ledger"):
        setattr(distill.sweeps.sweep, part, lambda *args: None)
    recipes = folder / f"{name}-{os.environ['RANK']}.yaml"
    recipes.write_text(SWEPT)
    reader = FakeReader(folder / "cache")
    config = SweepConfig(
        cache=reader.path, recipes=recipes, out=folder / name, wandb="disabled",
    )  # fmt: skip
    assert not distill.sweeps.sweep.sweep(config, reader=reader).failed


def save_gradients(folder: Path, name: str) -> None:
    """FOLDER/name gets the gradient of one step over MICROBATCHES, of one process and of two."""
    (folder / name).mkdir()
    assert wait(start(save_gradient, folder / name, slice(4))) == 0
    assert [wait(child) for child in start_pair(save_gradient, folder / name)] == [0, 0]


def save_gradient(folder: Path, share: slice | None = None) -> None:
    """The gradient of one step over MICROBATCHES, of which this process has a share."""
    reader = FakeReader(folder.parent / "cache")
    learner = make_learner(reader)
    rank = learner.accelerator.process_index
    mine = [slice(3), slice(3, 4)][rank] if share is None else share
    losses, gradients = gradient(learner, batches(reader, MICROBATCHES[mine]))
    name = f"rank{rank}" if share is None else "alone"
    torch.save({"loss": losses.loss, "gradients": gradients}, folder / f"{name}.pt")


def die(*args: object, **kwargs: object) -> None:
    """As `kill -9` from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def after(count: int, function):
    """`function`, until it is called for the time after `count`."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(None)
        return die() if len(calls) > count else function(*args, **kwargs)

    return counted


def arm(moment: str, reader: FakeReader) -> None:
    """Put the kill in place: an epoch has 6 steps, and reads 12 and 3 microbatches.

    The first 3 are read before the first step. Checkpoints are those of steps 4, 6, 10, 12, 16
    and 18.
    """
    if moment == "first_epoch":
        reader.read = after(3 + 7, reader.read)
    elif moment == "mid_epoch":
        reader.read = after(3 + 15 + 15 + 8, reader.read)
    elif moment == "mid_step":
        Learner.accumulate_gradients = after(16, Learner.accumulate_gradients)
    elif moment == "after_validation":
        Learner.accumulate_gradients = after(5, Learner.accumulate_gradients)
    elif moment == "mid_checkpoint":  # the second checkpoint has a model, but no random states
        distill.run.checkpoint.torch.save = after(3, torch.save)
    elif moment == "between_checkpoints":  # the third is written, the first still there
        distill.run.checkpoint_folder.shutil = SimpleNamespace(rmtree=die)
    elif moment == "mid_finish":
        distill.run.run_folder.write_json = die


def train_here(folder: Path, name: str, moment: str | None = None, **recipe: object) -> None:
    """Train FOLDER/name in this process, which is a child."""
    reader = FakeReader(folder / "cache")
    distill.run.train.plot_run = lambda *args: None
    if moment is not None:
        arm(moment, reader)
    config = TrainConfig(
        cache=reader.path,
        recipe=small_recipe(**{"epochs": 3, **recipe}),
        out=folder / name,
        resume=True,
        save_every=4,
        wandb="disabled",
    )
    train(config, reader=reader)


def start(work: Callable, *args: object, **options: object) -> int:
    """The id of a child that does some work and ends."""
    child = os.fork()
    if not child:
        try:
            gc.freeze()  # what was imported need not be looked through at the end of each run
            torch.set_num_threads(1)
            work(*args, **options)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def wait(child: int) -> int:
    """A child's exit code, or the negative number of the signal that has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start_pair(work: Callable, *args: object, **options: object) -> list[int]:
    """Two children that share the work, as `accelerate launch` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in "01":
        os.environ |= {**launched, "RANK": rank, "LOCAL_RANK": rank}
        children.append(start(work, *args, **options))
    for name in (*launched, "RANK", "LOCAL_RANK"):
        del os.environ[name]
    return children
