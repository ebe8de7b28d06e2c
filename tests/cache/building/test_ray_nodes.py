"""Stage one on a Ray cluster whose nodes join and are lost: the bytes of a local build."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.builds import build_words, datasets_of, left_over
from tests.support.local_ray import replicas
from tests.support.paths import ROOT
from tests.support.tiny_teacher import save_teacher

pytest.importorskip("ray", reason="Ray is not installed: pip install 'logitcache[ray]'")
# A cluster of its own, which does not go well beside another one on two cores.
pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture
def cluster():
    """A head on which nothing can run."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False},
    )
    yield cluster
    cluster.shutdown()


def wait_until(true, process: subprocess.Popen) -> None:
    while not true():
        assert process.poll() is None, "the build ended too early"
        time.sleep(0.02)


def build(out: Path, teacher: Path, *words: str) -> subprocess.Popen:
    # One document a batch, so that there is time for nodes to come and go.
    command = [*build_words(out, teacher), "--batch-tokens", "1", "--limit", "30", *words]
    return subprocess.Popen(
        [sys.executable, "cli.py", *command], cwd=ROOT, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_nodes_that_join_late_and_are_lost_leave_the_bytes_of_a_local_build(tmp_path, cluster):
    save_teacher(tmp_path / "t", num_layers=150)
    local = build(tmp_path / "local", tmp_path / "t")
    assert local.wait() == 0, local.stderr.read()
    out = tmp_path / "c"
    options = ("--engine", "ray", "--workers", "2", "--ray-address", cluster.address)
    process = build(out, tmp_path / "t", *options)
    assert "no node of the cluster has more than 0 and 0. Waiting" in process.stderr.readline()
    first = cluster.add_node(**NODE)
    wait_until(lambda: list(out.glob("train/*.h5")), process)
    cluster.add_node(**NODE)
    wait_until(lambda: len(replicas()) == 2, process)
    cluster.remove_node(first, allow_graceful=False)
    output = process.stderr.read()
    assert process.wait() == 0, output
    assert "A process of Ray's was lost" in output
    assert datasets_of(out) == datasets_of(tmp_path / "local")
    assert left_over(out) == []
