"""How several processes divide the shards of one cache; imports nothing heavy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json
from cache.machine.process import launch_number

COST_RECORDS = "worker-[0-9]*-of-[0-9]*.json"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of several processes: it computes every `count`-th shard, from shard `rank` on."""

    rank: int
    """Which worker, counted from 0."""
    count: int
    """How many workers there are."""

    def __post_init__(self):
        if not 0 <= self.rank < self.count:
            raise CacheError(
                f"worker {self.rank}/{self.count}: workers are counted from 0, so that the last "
                f"of {self.count} is {self.count - 1}/{self.count}."
            )

    @property
    def name(self) -> str:
        """Of its lock and its record of costs."""
        return f"worker-{self.rank}-of-{self.count}"

    @property
    def siblings(self) -> str:
        """Pattern of the names of the workers beside it."""
        return f"worker-*-of-{self.count}"

    def of(self, shards: Sequence[_T]) -> Sequence[_T]:
        """The shards of this worker."""
        return shards[self.rank :: self.count]


def parse_worker(words: str) -> Worker:
    """The worker that `3/64` names.

    Raises:
        CacheError: it names none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", words)
    if match is None:
        raise CacheError(f"--worker {words!r} is no worker; give RANK/COUNT, as in 3/64.")
    return Worker(rank=int(match[1]), count=int(match[2]))


def launched_worker(environment: Mapping[str, str]) -> Worker | None:
    """What torchrun or accelerate launched this process as, beside others; else None.

    Raises:
        CacheError: the environment names no number, or no worker.
    """
    count = launch_number(environment, "WORLD_SIZE", 1)
    if count < 2 or "RANK" not in environment:
        return None
    return Worker(rank=launch_number(environment, "RANK"), count=count)


def add_cost(out: Path, worker: Worker, *, rows: int, seconds: float) -> None:
    """Leave in the directory what a worker has cost, with what it cost before."""
    path = out / f"{worker.name}.json"
    before = read_sealed_json(path) if path.exists() else {"rows": 0, "seconds": 0.0}
    if rows:
        write_sealed_json(
            path, {"rows": before["rows"] + rows, "seconds": before["seconds"] + seconds}
        )


def total_cost(out: Path, *, rows: int, seconds: float) -> dict[str, Any]:
    """What `created` says of the cost: rows and seconds given, and those of all workers."""
    records = [read_sealed_json(path) for path in sorted(out.glob(COST_RECORDS))]
    return {
        "teacher_rows": rows + sum(record["rows"] for record in records),
        "teacher_seconds": round(seconds + sum(record["seconds"] for record in records), 3),
    }


def remove_costs(out: Path) -> None:
    """Delete the records of the workers."""
    for path in out.glob(COST_RECORDS):
        path.unlink(missing_ok=True)
