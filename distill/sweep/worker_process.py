"""A process that trains the recipes it is given, one after another.

Lines of JSON come in: the sweep's configuration, then recipes. Lines of JSON go out: what became
of each. All that is printed goes to standard error, which is a log. When the input ends, the
process that gave the recipes is done or dead, and so is this one: no student trains on alone.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.reading.reader import CacheReader
from distill.settings.config import SweepConfig
from distill.settings.recipe import recipe_from_mapping
from distill.sweep.result import FAILED
from distill.sweep.run_recipe import run_recipe

STOP_SECONDS = 15
"""What an interrupted run gets to end its logs before its process is ended."""


def config_to_json(config: SweepConfig) -> str:
    """One line, for `config_from_json`."""
    return json.dumps(asdict(config), default=str)


def config_from_json(line: str) -> SweepConfig:
    """The configuration written by `config_to_json`."""
    content: dict[str, Any] = json.loads(line)
    paths = {name: Path(content[name]) for name in ("cache", "recipes", "out")}
    return SweepConfig(**{**content, **paths, "only": tuple(content["only"])})


def main() -> None:
    """Serve until the input ends, or a run fails: what it may have broken dies with it."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = config_from_json(sys.stdin.readline())
    orders = _Orders()
    with CacheReader(config.cache) as reader, suppress(KeyboardInterrupt):
        while (line := orders.next()) is not None:
            outcome = run_recipe(recipe_from_mapping(json.loads(line)), config, reader)
            orders.is_busy.clear()
            print(json.dumps(asdict(outcome), default=str), file=answers, flush=True)
            if outcome.status == FAILED:
                return


class _Orders:
    """Lines of the input, read in a thread that notices its end while a student trains."""

    def __init__(self) -> None:
        self.is_busy = threading.Event()
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next(self) -> str | None:
        """The next line, or None when there is none to come."""
        return self._lines.get()

    def _read(self) -> None:
        for line in sys.stdin:
            self.is_busy.set()
            self._lines.put(line)
        self._lines.put(None)
        if self.is_busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(STOP_SECONDS)
            os._exit(1)
