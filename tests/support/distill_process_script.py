"""Train in child processes: some are killed and their runs gone on with, some share a run.

    python distill_process_script.py FOLDER

FOLDER/whole is trained in one go, and each run of MOMENTS is killed at its moment and resumed;
FOLDER/killed_at_random is killed from outside, again and again. FOLDER/alone is trained by one
process and FOLDER/pair by two, and so with _packed batches; FOLDER/pair_whole by two in one go,
FOLDER/pair_resumed by two that are killed and resumed; FOLDER/handed_over is begun by two and gone
on with by one. Gradients of one step with unequal shares are left in FOLDER/gradients. A script
of its own, because the children are forked to save the imports, which is safe only before torch
has computed anything.
"""

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import distill.run.checkpoint
import distill.run.run_folder
import distill.run.train
from distill.learning.learner import Learner
from distill.run.train import train
from distill.settings.config import TrainConfig
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

    Checkpoints are those of steps 4, 6, 10, 12, 16 and 18.
    """
    if moment == "first_epoch":
        reader.read = after(7, reader.read)
    elif moment == "mid_epoch":
        reader.read = after(15 + 15 + 8, reader.read)
    elif moment == "mid_step":
        Learner.accumulate_gradients = after(16, Learner.accumulate_gradients)
    elif moment == "mid_checkpoint":  # the second checkpoint has a model, but no random states
        distill.run.checkpoint.torch.save = after(3, torch.save)
    elif moment == "between_checkpoints":  # written under its name, the old one still there
        distill.run.checkpoint.shutil.rmtree = after(2, distill.run.checkpoint.shutil.rmtree)
    elif moment == "mid_finish":
        distill.run.run_folder.write_json = die


def train_in_child(folder: Path, name: str, moment: str | None = None, **recipe: object) -> None:
    """Train FOLDER/name in this process, which is a child."""
    reader = FakeReader(folder / "cache")
    if moment is not None:
        arm(moment, reader)
    config = TrainConfig(
        cache=reader.path,
        recipe=small_recipe(epochs=3, **recipe),
        out=folder / name,
        resume=True,
        save_every=4,
        wandb="disabled",
    )
    train(config, reader=reader)


def save_gradient(folder: Path, share: slice | None = None) -> None:
    """The gradient of one step over MICROBATCHES, of which this process has a share."""
    reader = FakeReader(folder / "cache")
    learner = make_learner(reader)
    rank = learner.accelerator.process_index
    mine = [slice(3), slice(3, 4)][rank] if share is None else share
    losses, gradients = gradient(learner, batches(reader, MICROBATCHES[mine]))
    name = f"rank{rank}" if share is None else "alone"
    (folder / "gradients").mkdir(exist_ok=True)
    torch.save({"loss": losses.loss, "gradients": gradients}, folder / f"gradients/{name}.pt")


def start(work: Callable, *args: object, **options: object) -> int:
    """The id of a child that does some work and ends."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        work(*args, **options)
        os._exit(0)
    return child


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


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


def train_pair(folder: Path, name: str, moment: str | None = None, **recipe: object) -> list[int]:
    return [wait(c) for c in start_pair(train_in_child, folder, name, moment, **recipe)]


def kill_at_random(folder: Path, name: str, times: int) -> None:
    """Kill a run from outside at random moments, and go on with it to its end."""
    for _ in range(times):
        child = start(train_in_child, folder, name)
        time.sleep(random.uniform(0.1, 1.5))
        os.kill(child, signal.SIGKILL)
        ended = wait(child)
        run = distill.run.run_folder.read_run(folder / name)
        if not ended or (run is not None and run["status"] == distill.run.run_folder.FINISHED):
            return  # it had finished before
    assert wait(start(train_in_child, folder, name)) == 0


def main(folder: Path) -> None:
    FakeReader(folder / "cache")  # writes the tokenizer, once
    assert wait(start(train_in_child, folder, "whole")) == 0
    for moment in MOMENTS:
        status = wait(start(train_in_child, folder, moment, moment))
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
        assert wait(start(train_in_child, folder, moment)) == 0, moment
    kill_at_random(folder, "killed_at_random", times=4)
    # Three microbatches a step: the second process goes without in half of the turns.
    uneven = {"dropout": 0.0, "accumulate": 3}
    assert wait(start(train_in_child, folder, "alone", **uneven)) == 0
    assert train_pair(folder, "pair", **uneven) == [0, 0]
    # Documents of a step end to end in rows: the second process often goes without.
    packed = {"dropout": 0.0, "batching": "packed"}
    assert wait(start(train_in_child, folder, "alone_packed", **packed)) == 0
    assert train_pair(folder, "pair_packed", **packed) == [0, 0]
    assert train_pair(folder, "pair_whole") == [0, 0]
    assert all(train_pair(folder, "pair_resumed", "mid_step"))
    assert train_pair(folder, "pair_resumed") == [0, 0]
    assert all(train_pair(folder, "handed_over", "mid_checkpoint", **uneven))
    assert wait(start(train_in_child, folder, "handed_over", **uneven)) == 0
    assert wait(start(save_gradient, folder, slice(4))) == 0
    assert [wait(child) for child in start_pair(save_gradient, folder)] == [0, 0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
