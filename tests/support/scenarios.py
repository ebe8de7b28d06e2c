"""Runs of `tests.support.killed_runs` that are under way while tests wait for the one they need."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.support.distill_fakes import FakeReader
from tests.support.paths import ROOT


@contextmanager
def under_way(folder: Path, scenarios: dict[str, tuple]) -> Iterator[Callable[[str], Path]]:
    """What gives a scenario's folder by its name, once it has ended.

    Args:
        scenarios: what is called for the folder of a name, in the order in which it is asked for.
    """
    FakeReader(folder / "cache")  # writes the tokenizer, once
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["tests.support.killed_runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("OMP_NUM_THREADS", "1")
        pool = ProcessPoolExecutor(2, mp_context=processes)
        ends = {
            name: pool.submit(work, folder, name, *more)
            for name, (work, *more) in scenarios.items()
        }
    with pool:
        yield lambda name: ends[name].result() or folder / name
        pool.shutdown(cancel_futures=True)
