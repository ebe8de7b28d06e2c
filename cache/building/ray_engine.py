"""Stage one on a Ray cluster: replicas of the teacher, each handed one shard after another.

The cache stands on a file system that every node sees: replicas write shards there, and only
their names pass through Ray. Source: Moritz et al. 2018 (Ray).
"""

import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

from cache.building.compute import ShardMaker
from cache.building.config import BuildConfig
from cache.building.local import BuildSummary, finish_build, summary_of
from cache.building.prepare import finished_cache, prepare
from cache.errors import CacheError
from cache.machine.durable import make_directory
from cache.machine.lock import prepare_lock, writer_lock
from cache.machine.progress import BuildProgress
from cache.machine.ray_cluster import WORKER_ENVIRONMENT, gpus_or_one, ray_cluster, require_room
from cache.storage.left_over import remove_left_over
from cache.storage.manifest import Manifest, Plan, ShardRecord
from cache.teacher.load import load_tokenizer

RETRIES = 3
"""How often in turn a shard, or the loading of a replica, may be lost with its process; nodes come
and go, but a shard that is lost once more is at fault itself."""
WAIT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """How a build uses a cluster."""

    workers: int
    """Replicas at most; those that find no room join when the cluster grows."""
    address: str | None = None
    """Of the cluster; None starts one of this machine alone, or takes RAY_ADDRESS."""
    gpus_per_worker: float | None = None
    """GPUs of a replica, over which device_map spreads it; None: 1 where there are any."""

    def __post_init__(self):
        if self.workers < 1:
            raise CacheError(f"workers is {self.workers}; it must be 1 or more.")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise CacheError(f"gpus_per_worker is {self.gpus_per_worker}; it must be 0 or more.")


def build_on_ray(config: BuildConfig, cluster: RayConfig) -> BuildSummary:
    """Build the cache at `config.out` with replicas of the teacher on a Ray cluster.

    The bytes are those of `cache.building.local.build_cache` on such a device with so many threads.

    Raises:
        CacheError: as `build_cache`; Ray is not installed, no cluster answers, or processes
            die again and again.
    """
    tokenizer = load_tokenizer(config.teacher, config.revision)
    complete = finished_cache(config, tokenizer)
    if complete is not None:
        return summary_of(complete)
    make_directory(config.out)
    config = replace(config, out=config.out.resolve())
    with writer_lock(config.out), ray_cluster(cluster.address, CacheError) as ray:
        remove_left_over(config.out, config.cached_splits)
        started = time.monotonic()
        with _Build(ray, config, cluster) as build:
            build.run()
        if build.plan is None:  # complete by now
            return summary_of(Manifest.read(config.out))
        seconds = time.monotonic() - started
        with prepare_lock(config.out):  # a replica may have died with it
            remove_left_over(config.out, config.cached_splits)  # or in the middle of a shard
            manifest = finish_build(
                config.out, build.plan, **build.facts,
                num_rows=build.num_new_rows, seconds=build.teacher_seconds,
            )  # fmt: skip
    return summary_of(manifest, num_new_rows=build.num_new_rows, seconds=seconds)


class Replica:
    """A teacher in a process of Ray's."""

    def __init__(self, config: BuildConfig, num_threads: int):
        """Do nothing yet: what `load` raises reaches the driver as it is."""
        self._config, self._num_threads = config, num_threads
        self._maker: ShardMaker | None = None

    def load(self) -> dict[str, Any]:
        """Load the teacher and prepare the directory; what the record of the build says of it.

        Empty if the cache is complete.
        """
        import torch

        torch.set_num_threads(self._num_threads)
        config = self._config
        prepared = prepare(config, load_tokenizer(config.teacher, config.revision))
        if prepared is None:
            return {}
        self._maker = ShardMaker(config, prepared)
        teacher = prepared.teacher
        return {
            "num_parameters": teacher.num_parameters,
            "notes": teacher.notes,
            "stamp": teacher.stamp,
            "origins": prepared.job.origins,
            "device": str(teacher.device),
        }

    def make(self, shard: ShardRecord) -> tuple[int, float]:
        """Compute a shard if it is not there whole; rows computed, and seconds."""
        assert self._maker is not None
        started = time.monotonic()
        missing = self._maker.missing([shard])
        self._maker.make(missing)
        return sum(s.num_rows for s in missing), time.monotonic() - started


class _Build:
    """The shards that wait, and the replicas that are loading or at work."""

    def __init__(self, ray: Any, config: BuildConfig, cluster: RayConfig):
        import torch

        self._ray, self._config, self._cluster = ray, config, cluster
        self.plan: Plan | None = None
        self.is_complete = False
        self.facts: dict[str, Any] = {}
        self.num_new_rows = 0
        self.teacher_seconds = 0.0
        self._losses: Counter[str] = Counter()  # by what a process was at
        self._waiting: deque[ShardRecord] = deque()
        self._loading: dict[Any, Any] = {}  # by what it will answer: a replica
        self._working: dict[Any, tuple[Any, ShardRecord]] = {}
        gpus = gpus_or_one(ray, cluster.gpus_per_worker)
        require_room(ray, cluster.address, CacheError, who="a replica", gpus=gpus)
        self._num_threads = torch.get_num_threads()
        self._kind = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=WORKER_ENVIRONMENT)(Replica)

    def __enter__(self) -> "_Build":
        return self

    def __exit__(self, *exception) -> None:
        for replica in [*self._loading.values(), *(r for r, _ in self._working.values())]:
            self._ray.kill(replica)

    def run(self) -> None:
        """Compute all shards: the first replica prepares them, the others come when it has."""
        while self.plan is None and not self.is_complete:
            if not self._loading:
                self._start()
            self._await_any(None)
        if self.plan is None:
            return
        total = sum(shard.num_rows for shard in self.plan.shards)
        with BuildProgress(total=total, done=0) as progress:
            while self._waiting or self._working:
                alive = len(self._loading) + len(self._working)
                for _ in range(alive, min(self._cluster.workers, alive + len(self._waiting))):
                    self._start()
                self._await_any(progress)

    def _start(self) -> None:
        replica = self._kind.remote(self._config, self._num_threads)
        self._loading[replica.load.remote()] = replica

    def _await_any(self, progress: BuildProgress | None) -> None:
        ended, _ = self._ray.wait([*self._working, *self._loading], timeout=WAIT_SECONDS)
        for answer in ended:
            if answer in self._loading:
                self._loaded(answer)
            elif progress is not None:
                self._made(answer, progress)

    def _loaded(self, answer: Any) -> None:
        replica = self._loading.pop(answer)
        facts = self._answer(answer, "while it loaded the teacher")
        if not facts:
            self.is_complete = facts is not None
            return
        if self.plan is None:
            self.facts, self.plan = facts, Plan.read(self._config.out)
            self._waiting.extend(self.plan.shards)
        self._hand_out(replica)

    def _made(self, answer: Any, progress: BuildProgress) -> None:
        replica, shard = self._working.pop(answer)
        made = self._answer(answer, f"at shard {shard.path}")
        if made is None:
            self._waiting.appendleft(shard)
            return
        num_rows, seconds = made
        self.num_new_rows += num_rows
        self.teacher_seconds += seconds if num_rows else 0.0
        progress.advance(shard.num_rows)
        progress.shard_done(self._config.out / shard.path, shard.num_rows)
        self._hand_out(replica)

    def _hand_out(self, replica: Any) -> None:
        if self._waiting:
            shard = self._waiting.popleft()
            self._working[replica.make.remote(shard)] = replica, shard
        else:
            self._ray.kill(replica)

    def _answer(self, answer: Any, when: str) -> Any:
        """The answer; None if the process or its node was lost."""
        errors = self._ray.exceptions
        try:
            found = self._ray.get(answer)
        except errors.RayTaskError as error:
            if isinstance(error.cause, CacheError):
                raise error.cause from error
            raise
        except errors.RayActorError as error:
            self._losses[when] += 1
            if self._losses[when] > RETRIES:
                raise CacheError(
                    f"{self._losses[when]} processes of Ray's were lost {when}: {error}\n"
                    "Most often that is a lack of memory: try fewer --workers. The same command "
                    "resumes."
                ) from error
            print(f"A process of Ray's was lost {when}: done again.", file=sys.stderr, flush=True)
            return None
        del self._losses[when]
        return found
