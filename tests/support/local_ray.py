"""A Ray cluster of this machine for tests, and the processes of its replicas."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def two_cpus() -> Iterator[None]:
    """A cluster of two CPUs, connected; nothing of it is left behind."""
    import ray

    before = {process.pid for process in psutil.process_iter()}
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()
    for _ in range(100):
        left = [p for p in psutil.process_iter() if p.pid not in before and _is_of_ray(p)]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {left}")


def replicas() -> list[psutil.Process]:
    """The processes of the replicas of stage one."""
    found = psutil.process_iter(["name"])  # passes over those that end meanwhile
    return [p for p in found if (p.info["name"] or "").startswith("ray::Replica")]


def _is_of_ray(process: psutil.Process) -> bool:
    try:
        return "ray" in process.name() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
