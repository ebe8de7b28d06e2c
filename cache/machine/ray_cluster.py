"""A Ray cluster: connected to, or started on this machine for as long as it is needed."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKER_ENVIRONMENT = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}}
"""`runtime_env` of processes that import this project from where it stands."""


@contextmanager
def ray_cluster(address: str | None, failure: type[ValueError]) -> Iterator[Any]:
    """The module `ray`, connected; a cluster started here is stopped at the end.

    Args:
        address: of the cluster; None starts one of this machine alone, or takes RAY_ADDRESS.
        failure: what to raise where Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise failure(
            "--engine ray needs Ray, which is not installed. pip install 'logitcache[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise failure(
            f"no Ray cluster answers at {address or 'this machine'}: {error}\n"
            "Start one with `ray start --head`, or leave --ray-address out for one of this "
            "machine alone."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def gpus_or_one(ray: Any, given: float | None) -> float:
    """The GPUs that were asked for; else one, where the cluster has any."""
    if given is not None:
        return given
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def require_room(
    ray: Any,
    address: str | None,
    failure: type[ValueError],
    *,
    who: str,
    gpus: float,
    cpus: int = 1,
) -> None:
    """Raise `failure` if no node has what `who` needs and none can join.

    A cluster with an address may grow, often from no GPU node at all: then only say what it needs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    most = {name: max(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    found = (
        f"{who} needs {cpus} CPUs and {gpus:g} GPUs, but no node of the cluster has more than "
        f"{most['CPU']:g} and {most['GPU']:g}."
    )
    if not (address or os.environ.get("RAY_ADDRESS")):
        raise failure(f"{found} Ask for less, or give --ray-address of a cluster that has more.")
    print(f"{found} Waiting for one to join.", file=sys.stderr, flush=True)
