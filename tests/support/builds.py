"""Builds of small caches, as calls and as processes that can be killed; what they leave."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import h5py

from cache.building.config import BuildConfig
from cache.targets.format import TargetFormat
from tests.support.paths import EXAMPLES, ROOT

FORK = get_context("fork")


def take_interrupts() -> None:
    """For `preexec_fn`: a child of a background job would inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def config_of(out: Path, teacher: Path, **options) -> BuildConfig:
    defaults = {
        "splits": ("train",),
        "dataset": str(EXAMPLES),
        "limit": 10,
        "targets": TargetFormat(top_k=8, logprob_bits=16, tail="mass"),
        "shard_tokens": 1000,
        "batch_tokens": 2048,
    }
    return BuildConfig(out=out, teacher=str(teacher), **{**defaults, **options})


def datasets_of(cache_dir: Path) -> dict[str, bytes]:
    content = {}
    for path in sorted(cache_dir.rglob("*.h5")):
        with h5py.File(path, "r") as file:
            for name in file:
                content[f"{path.relative_to(cache_dir)}:{name}"] = file[name][()].tobytes()
    return content


def left_over(out: Path) -> list[str]:
    """What a build must not leave in its directory."""
    patterns = ("*.lock*", "worker-*", "*.partial")
    return [path.name for pattern in patterns for path in out.rglob(pattern)]


def cli(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "cli.py", *words], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=take_interrupts,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def build_words(out: Path, teacher: Path) -> list[str]:
    options = {
        "--teacher": teacher, "--dataset": EXAMPLES, "--out": out, "--split": "train",
        "--top-k": 8, "--shard-tokens": 400, "--batch-tokens": 64,
    }  # fmt: skip
    return ["cache-teacher", *(str(word) for pair in options.items() for word in pair)]


def small_batches(out: Path, teacher: Path) -> BuildConfig:
    """What `build_words` asks for: many shards, that take a moment each."""
    return BuildConfig(
        out=out, teacher=str(teacher), dataset=str(EXAMPLES), splits=("train",),
        targets=TargetFormat(top_k=8), shard_tokens=400, batch_tokens=64,
    )  # fmt: skip


def wait_for_shards(process: subprocess.Popen | ForkProcess, out: Path, count: int) -> None:
    def is_running() -> bool:
        return process.is_alive() if isinstance(process, ForkProcess) else process.poll() is None

    while is_running() and len(list(out.rglob("*.h5"))) < count:
        time.sleep(0.002)
