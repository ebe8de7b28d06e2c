"""Stage one on a Ray cluster of this machine: the bytes of a local build, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cache.building.local import build_cache
from cache.errors import CacheError
from cache.targets.format import TargetFormat
from cache.tools.verify import verify_cache
from tests.support.builds import build_words, config_of, datasets_of, left_over
from tests.support.local_ray import replicas, two_cpus
from tests.support.paths import ROOT
from tests.support.tiny_teacher import save_teacher

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'logitcache[ray]'")
# A cluster of its own, which does not go well beside another one on two cores.
pytestmark = pytest.mark.slow

from cache.building.ray_engine import RETRIES, RayConfig, build_on_ray  # noqa: E402
from cache.machine.ray_cluster import require_room  # noqa: E402

LOWRANK = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two CPUs; nothing of it is left behind."""
    with two_cpus():
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory, tiny_teacher):
    """What a local build leaves."""
    out = tmp_path_factory.mktemp("local") / "c"
    summary = build_cache(config_of(out, tiny_teacher, targets=LOWRANK, shard_tokens=300))
    return summary, datasets_of(out)


def kill_replicas(stop: threading.Event, when, *, at_most: int) -> list[int]:
    """SIGKILL a replica each time that `when()` has changed; the pids, as they come."""
    killed: list[int] = []

    def watch():
        seen = when()
        while not stop.is_set() and len(killed) < at_most:
            now, found = when(), [p for p in replicas() if p.pid not in killed]
            if now != seen and found:
                found[0].send_signal(signal.SIGKILL)
                killed.append(found[0].pid)
                seen = now
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()
    return killed


def test_replicas_killed_more_often_than_one_shard_may_be_lost_leave_the_bytes_of_a_local_build(
    tmp_path, tiny_teacher, local, capsys
):
    config = config_of(tmp_path / "c", tiny_teacher, targets=LOWRANK, shard_tokens=300)
    stop = threading.Event()
    shards = lambda: len(list(config.out.glob("train/*.h5")))  # noqa: E731
    killed = kill_replicas(stop, shards, at_most=RETRIES + 1)
    summary = build_on_ray(config, RayConfig(workers=2))
    stop.set()
    assert len(killed) >= RETRIES + 1  # one more may have been starting when the build gave up
    assert datasets_of(config.out) == local[1]
    # With each process one shard is lost at most, and computed again.
    lost = capsys.readouterr().err.count("was lost at shard")
    assert lost <= len(killed)
    created = summary.manifest.created
    most = max(shard.num_rows for shard in summary.manifest.plan.shards)
    assert summary.num_rows - lost * most <= created["teacher_rows"] <= summary.num_rows
    assert created["teacher_parameters"] == local[0].manifest.created["teacher_parameters"]
    assert verify_cache(config.out) == [] and left_over(config.out) == []
    assert build_on_ray(config, RayConfig(workers=2)).already_complete


def test_a_build_whose_replicas_all_die_ends_with_a_sentence_and_goes_on(tmp_path, tiny_teacher):
    config = config_of(tmp_path / "c", tiny_teacher)
    stop = threading.Event()
    killed = kill_replicas(stop, lambda: len(replicas()) and object(), at_most=100)
    with pytest.raises(CacheError, match=f"{RETRIES + 1} processes of Ray's were lost while it"):
        build_on_ray(config, RayConfig(workers=1))
    stop.set()
    assert len(killed) >= RETRIES + 1  # one more may have been starting when the build gave up
    assert build_on_ray(config, RayConfig(workers=1)).num_new_rows > 0


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
    with pytest.raises(CacheError, match="a replica needs 1 CPUs and 2 GPUs, but no node"):
        build_on_ray(config, RayConfig(workers=1, gpus_per_worker=2))
    for wrong in ({"workers": 0}, {"workers": 1, "gpus_per_worker": -1}):
        with pytest.raises(CacheError, match="it must be"):
            RayConfig(**wrong)


def test_a_cluster_that_may_grow_is_waited_for(capsys):
    require_room(ray, "node1:6379", CacheError, who="a replica", gpus=2)
    assert "no node of the cluster has more than 2 and 0. Waiting" in capsys.readouterr().err


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
