"""Train in child processes: some are killed and their runs gone on with, two share a run.

    python distill_process_script.py FOLDER

FOLDER/whole is trained in one go, and each run of MOMENTS is killed at its moment and resumed;
FOLDER/alone is trained by one process and FOLDER/pair by two. A script of its own, because the
children are forked to save the imports, which is safe only before torch has computed anything.
"""

import os
import signal
import socket
import sys
from pathlib import Path

import torch
from distill_fakes import FakeReader, small_recipe

import distill.checkpoint
import distill.run_folder
import distill.train
from distill.config import TrainConfig
from distill.train import train

MOMENTS = ("first_epoch", "mid_epoch", "mid_checkpoint", "between_checkpoints", "mid_finish")


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
    """Put the kill in place: an epoch reads 12 training and 3 validation microbatches."""
    if moment == "first_epoch":
        reader.read = after(7, reader.read)
    elif moment == "mid_epoch":
        reader.read = after(15 + 15 + 8, reader.read)
    elif moment == "mid_checkpoint":  # the second checkpoint has a model, but no random states
        distill.checkpoint.torch.save = after(3, torch.save)
    elif moment == "between_checkpoints":  # written under its name, the old one still there
        distill.checkpoint.shutil.rmtree = after(3, distill.checkpoint.shutil.rmtree)
    elif moment == "mid_finish":
        distill.run_folder.write_json = die


def train_in_child(folder: Path, name: str, moment: str | None = None, **recipe: object) -> None:
    """Train FOLDER/name in this process, which is a child, and end it."""
    torch.set_num_threads(1)
    reader = FakeReader(folder / "cache")
    if moment is not None:
        arm(moment, reader)
    config = TrainConfig(
        cache=reader.path,
        recipe=small_recipe(epochs=3, **recipe),
        out=folder / name,
        resume=True,
        wandb="disabled",
    )
    train(config, reader=reader)
    os._exit(0)


def run(folder: Path, name: str, moment: str | None = None, **recipe: object) -> int:
    """The wait status of a child that trains FOLDER/name."""
    child = os.fork()
    if not child:
        train_in_child(folder, name, moment, **recipe)
    return os.waitpid(child, 0)[1]


def run_pair(folder: Path, name: str, **recipe: object) -> None:
    """Train FOLDER/name in two processes, as `accelerate launch` would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in "01":
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        children.append(os.fork())
        if not children[-1]:
            train_in_child(folder, name, **recipe)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def main(folder: Path) -> None:
    FakeReader(folder / "cache")  # writes the tokenizer, once
    assert run(folder, "whole") == 0
    for moment in MOMENTS:
        status = run(folder, moment, moment)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
        assert run(folder, moment) == 0, moment
    # Three microbatches a step: the second process goes without in half of the turns.
    uneven = {"dropout": 0.0, "accumulate": 3}
    assert run(folder, "alone", **uneven) == 0
    run_pair(folder, "pair", **uneven)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
