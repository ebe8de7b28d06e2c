"""Stage one on a Ray cluster of this machine: the bytes of a local build, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import save_teacher
from test_cache_build import ROOT, build_words, config_of, datasets_of

from cache.build import build_cache
from cache.config import TargetFormat
from cache.errors import CacheError
from cache.verify import verify_cache

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'logitcache[ray]'")
# A cluster of its own, which does not go well beside another one on two cores.
pytestmark = pytest.mark.slow

from cache.ray_engine import RayConfig, build_on_ray  # noqa: E402

LOWRANK = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two CPUs; nothing of it is left behind."""
    before = {process.pid for process in psutil.process_iter()}
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()
    for _ in range(100):
        left = [p for p in psutil.process_iter() if p.pid not in before and is_of_ray(p)]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {left}")


def is_of_ray(process: psutil.Process) -> bool:
    try:
        return "ray" in process.name() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def local(tmp_path_factory, tiny_teacher):
    """What a local build leaves."""
    out = tmp_path_factory.mktemp("local") / "c"
    summary = build_cache(config_of(out, tiny_teacher, targets=LOWRANK, shard_tokens=300))
    return summary, datasets_of(out)


def left_over(out: Path) -> list[str]:
    patterns = ("*.lock*", "share-*", "*.partial")
    return [path.name for pattern in patterns for path in out.rglob(pattern)]


def replicas() -> list[psutil.Process]:
    """The processes of the replicas."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.name().startswith("ray::Replica")]


def test_two_replicas_one_of_them_killed_leave_the_bytes_of_a_local_build(
    tmp_path, tiny_teacher, local
):
    config = config_of(tmp_path / "c", tiny_teacher, targets=LOWRANK, shard_tokens=300)
    killed = []

    def kill_one():
        while not killed and not (tmp_path / "c" / "manifest.json").exists():
            if list((tmp_path / "c").glob("train/*.h5")):
                for process in replicas()[:1]:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    summary = build_on_ray(config, RayConfig(workers=2))
    thread.join()
    assert len(killed) == 1
    assert datasets_of(config.out) == local[1]
    # What was lost with the process is one shard at most, and was computed again.
    created = summary.manifest.created
    one_shard = max(shard.num_rows for shard in summary.manifest.plan.shards)
    assert summary.num_rows - one_shard <= created["teacher_rows"] <= summary.num_rows
    assert created["teacher_parameters"] == local[0].manifest.created["teacher_parameters"]
    assert verify_cache(config.out) == [] and left_over(config.out) == []
    assert build_on_ray(config, RayConfig(workers=2)).already_complete


def test_a_shard_that_fails_stops_the_build_with_its_sentence(tmp_path, tiny_teacher):
    import torch
    from transformers import AutoModelForCausalLM

    save_teacher(tmp_path / "t")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "t")
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    model.save_pretrained(tmp_path / "t")
    with pytest.raises(CacheError, match=r"NaN or inf .*; batch of task_id"):
        build_on_ray(config_of(tmp_path / "c", tmp_path / "t"), RayConfig(workers=1))
    assert left_over(tmp_path / "c") == []


def test_a_cluster_without_such_gpus_is_refused(tmp_path, tiny_teacher):
    config = config_of(tmp_path / "c", tiny_teacher)
    with pytest.raises(CacheError, match="needs 2 GPUs, but no node of the cluster has more than"):
        build_on_ray(config, RayConfig(workers=1, gpus_per_worker=2))
    for wrong in ({"workers": 0}, {"workers": 1, "gpus_per_worker": -1}):
        with pytest.raises(CacheError, match="it must be"):
            RayConfig(**wrong)


def test_without_ray_or_a_cluster_it_says_what_to_do(tmp_path, tiny_teacher, monkeypatch):
    config = config_of(tmp_path / "c", tiny_teacher)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def fails(**options):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(CacheError, match="no Ray cluster answers at node1:6379: nobody there"):
        build_on_ray(config, RayConfig(workers=1, address="node1:6379"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CacheError, match="pip install 'logitcache.ray.'"):
        build_on_ray(config, RayConfig(workers=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "these belong to --engine ray; leave out --workers"),
        (["--engine", "ray", "--worker", "0/2"], "divides the work itself; leave out --worker"),
    ],
)
def test_options_of_another_engine_are_refused(tmp_path, tiny_teacher, options, message):
    words = build_words(tmp_path / "c", tiny_teacher)
    result = subprocess.run(
        [sys.executable, "cli.py", *words, *options], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 1 and message in result.stderr
