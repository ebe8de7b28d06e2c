"""How several processes divide the shards of one cache; imports nothing heavy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json

COST_RECORDS = "share-*.json"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Every `count`-th shard, from shard `rank` on."""

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
        return f"share-{self.rank}-of-{self.count}"

    @property
    def siblings(self) -> str:
        """Pattern of the names of shares of the same division."""
        return f"share-*-of-{self.count}"

    def of(self, shards: Sequence[_T]) -> Sequence[_T]:
        """The shards of this share."""
        return shards[self.rank :: self.count]


def parse_share(words: str) -> Share:
    """The share that `3/64` names.

    Raises:
        CacheError: it names none.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", words)
    if match is None:
        raise CacheError(f"--worker {words!r} is no share; give RANK/COUNT, as in 3/64.")
    return Share(rank=int(match[1]), count=int(match[2]))


def share_of_launch(environment: Mapping[str, str]) -> Share | None:
    """The share of a process that torchrun or accelerate launched with others; else None."""
    if int(environment.get("WORLD_SIZE", "1")) < 2 or "RANK" not in environment:
        return None
    return Share(rank=int(environment["RANK"]), count=int(environment["WORLD_SIZE"]))


def add_cost(out: Path, share: Share, *, rows: int, seconds: float) -> None:
    """Leave in the directory what a share has cost, with what it cost before."""
    path = out / f"{share.name}.json"
    before = read_sealed_json(path) if path.exists() else {"rows": 0, "seconds": 0.0}
    if rows:
        write_sealed_json(
            path, {"rows": before["rows"] + rows, "seconds": before["seconds"] + seconds}
        )


def total_cost(out: Path, *, rows: int, seconds: float) -> dict[str, Any]:
    """What `created` says of the cost: rows and seconds given, and those of all shares."""
    records = [read_sealed_json(path) for path in sorted(out.glob(COST_RECORDS))]
    return {
        "teacher_rows": rows + sum(record["rows"] for record in records),
        "teacher_seconds": round(seconds + sum(record["seconds"] for record in records), 3),
    }


def remove_costs(out: Path) -> None:
    """Delete the records of the shares."""
    for path in out.glob(COST_RECORDS):
        path.unlink(missing_ok=True)
