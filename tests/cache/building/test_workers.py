"""Several processes that build one cache: the bytes of one, whoever comes first or dies."""

import os
import signal
import subprocess
import sys
from hashlib import sha256
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.building.config import BuildConfig
from cache.building.local import build_as_worker, build_cache
from cache.building.workers import Worker, launched_worker, parse_worker, total_cost
from cache.errors import CacheError
from cache.machine.gpus import own_gpus
from cache.reading.reader import CacheReader
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.tools.extend import extend_cache
from cache.tools.verify import verify_cache
from cli import main
from tests.support.builds import (
    FORK,
    build_words,
    config_of,
    datasets_of,
    left_over,
    small_batches,
    wait_for_shards,
)
from tests.support.paths import ROOT

LOWRANK = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_teacher):
    """Datasets of the cache that one process builds."""
    out = tmp_path_factory.mktemp("whole") / "c"
    manifest = build_cache(small_batches(out, tiny_teacher)).manifest
    return datasets_of(out), manifest


def start_share(config: BuildConfig, rank: int) -> ForkProcess:
    """A process that computes every second shard from `rank` on."""
    process = FORK.Process(target=build_as_worker, args=(config, Worker(rank=rank, count=2)))
    process.start()
    return process


def exit_codes(processes: list[ForkProcess]) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_two_shares_in_turn_are_the_cache_of_one_process(tmp_path, tiny_teacher):
    build_cache(config_of(tmp_path / "one", tiny_teacher, targets=LOWRANK))
    config = config_of(tmp_path / "two", tiny_teacher, targets=LOWRANK)
    first = build_as_worker(config, Worker(rank=1, count=2))
    assert first.summary is None and first.missing == {0: 2} and first.num_new_rows > 0
    assert total_cost(config.out, rows=0, seconds=0.0)["teacher_rows"] == first.num_new_rows
    second = build_as_worker(config, Worker(rank=0, count=2))
    created = second.summary.manifest.created
    assert created["teacher_rows"] == first.num_new_rows + second.num_new_rows
    assert created["teacher_rows"] == second.summary.num_rows
    assert created["teacher_seconds"] > 0
    assert datasets_of(tmp_path / "one") == datasets_of(tmp_path / "two")
    assert verify_cache(config.out) == [] and left_over(config.out) == []
    again = build_as_worker(config, Worker(rank=0, count=2))
    assert again.num_new_rows == 0 and again.summary.already_complete


def test_the_command_says_what_other_workers_still_owe(tmp_path, tiny_teacher):
    words = [*build_words(tmp_path / "c", tiny_teacher), "--limit", "5"]
    first = CliRunner().invoke(main, [*words, "--worker", "1/2"])
    assert "Shards still to come: 2, of 0/2." in first.output, first.output
    second = CliRunner().invoke(main, [*words, "--worker", "0/2"])
    assert "Worker 0/2" in second.output and verify_cache(tmp_path / "c") == []


def test_processes_at_once_prepare_once_and_one_of_them_finishes(tmp_path, tiny_teacher, whole):
    config = small_batches(tmp_path / "c", tiny_teacher)
    assert exit_codes([start_share(config, rank) for rank in range(2)]) == [0, 0]
    assert datasets_of(config.out) == whole[0]
    assert left_over(config.out) == []
    created = Manifest.read(config.out).created
    assert created["teacher_rows"] == whole[1].created["teacher_rows"]


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


def test_a_process_that_was_launched_with_others_takes_its_part(tmp_path, tiny_teacher, whole):
    for rank in (1, 0):
        runner = CliRunner(env={"WORLD_SIZE": "2", "RANK": str(rank)})
        result = runner.invoke(main, build_words(tmp_path / "c", tiny_teacher))
        assert result.exit_code == 0 and f"Worker {rank}/2" in result.output, result.output
    assert datasets_of(tmp_path / "c") == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_gives_each_process_its_share(tmp_path, tiny_teacher, whole, launcher):
    words = build_words(tmp_path / "c", tiny_teacher)
    result = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], "cli.py", *words],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Worker 0/2" in result.stdout and "Worker 1/2" in result.stdout
    assert datasets_of(tmp_path / "c") == whole[0]


def test_a_killed_worker_goes_on_while_another_works(tmp_path, tiny_teacher, whole):
    config = small_batches(tmp_path / "c", tiny_teacher)
    killed = start_share(config, 0)
    wait_for_shards(killed, config.out, 1)
    killed.kill()
    assert exit_codes([killed]) == [-signal.SIGKILL]
    assert exit_codes([start_share(config, rank) for rank in range(2)]) == [0, 0]
    assert datasets_of(config.out) == whole[0]
    assert left_over(config.out) == []


def test_the_same_share_all_and_other_divisions_are_refused(tmp_path, tiny_teacher):
    config = small_batches(tmp_path / "c", tiny_teacher)
    process = start_share(config, 0)
    wait_for_shards(process, config.out, 1)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        refused = f"pid {process.pid} .worker-0-of-2."
        for worker in (Worker(rank=0, count=2), Worker(rank=1, count=3)):
            with pytest.raises(CacheError, match=refused):
                build_as_worker(config, worker)
        with pytest.raises(CacheError, match=refused):
            build_cache(config)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert exit_codes([process]) == [0]


def read_until(ended, folder: Path, answers) -> None:
    """Open the cache and read it, again and again; answers with the hashes of what was read."""
    hashes = set()
    while not hashes or not ended.wait(0.5):  # twenty that never rest leave no core to others
        with CacheReader(folder) as reader:
            ids = [reader.read("train", [i]).targets.topk_ids.numpy().tobytes() for i in range(3)]
        hashes.add(sha256(b"".join(ids)).hexdigest())
    answers.put(hashes)


@pytest.mark.slow
def test_twenty_readers_see_nothing_change_while_the_cache_is_extended(tmp_path, tiny_teacher):
    folder = tmp_path / "c"
    build_cache(config_of(folder, tiny_teacher, limit=3))
    ended, answers = FORK.Event(), FORK.Queue()
    readers = [
        FORK.Process(target=read_until, args=(ended, folder, answers), daemon=True)
        for _ in range(20)
    ]
    for reader in readers:
        reader.start()
    try:
        extend_cache(folder, splits=("validation",), limit=4, shard_tokens=200)
    finally:
        ended.set()
    found = [answers.get() for _ in readers]
    for reader in readers:
        reader.join()
    assert len(found) == 20 and len(set.union(*found)) == 1
    assert verify_cache(folder) == []


def test_readers_leave_no_trace_in_a_read_only_folder(tmp_path, tiny_teacher):
    folder = tmp_path / "c"
    build_cache(config_of(folder, tiny_teacher, limit=3))
    paths = (folder, *folder.rglob("*"))
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = [(p, p.stat().st_mtime_ns) for p in paths]
    with CacheReader(folder) as reader:
        assert len(reader.read("train", [0, 1, 2]).task_ids) == 3
        assert before == [(p, p.stat().st_mtime_ns) for p in (folder, *folder.rglob("*"))]
    assert build_cache(config_of(folder, tiny_teacher, limit=3)).already_complete
    assert before == [(p, p.stat().st_mtime_ns) for p in (folder, *folder.rglob("*"))]
    for path in paths:
        path.chmod(0o755)


def test_all_that_is_made_is_the_groups_where_the_umask_says_so(tmp_path, tiny_teacher):
    before = os.umask(0o002)
    try:
        config = config_of(tmp_path / "c", tiny_teacher, targets=LOWRANK)
        build_as_worker(config, Worker(rank=0, count=2))
        build_as_worker(config, Worker(rank=1, count=2))
    finally:
        os.umask(before)
    for path in (tmp_path / "c", *(tmp_path / "c").rglob("*")):
        assert path.stat().st_mode & 0o060 == 0o060, path


def test_shares_and_gpus_are_divided_evenly():
    assert parse_worker("3/64") == Worker(rank=3, count=64)
    shards = list(range(7))
    assert sorted(s for r in range(3) for s in Worker(rank=r, count=3).of(shards)) == shards
    for words, problem in (("64/64", "last of 64 is 63/64"), ("3", "give RANK/COUNT")):
        with pytest.raises(CacheError, match=problem):
            parse_worker(words)
    assert launched_worker({}) is None and launched_worker({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert launched_worker({"WORLD_SIZE": "4", "RANK": "2"}) == Worker(rank=2, count=4)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "worker 5/2: workers are counted from 0"),
    ],
)
def test_an_environment_that_names_no_worker_is_a_sentence(environment, name):
    with pytest.raises(CacheError, match=name):
        launched_worker(environment)


def test_a_launch_on_a_node_without_ranks_is_a_sentence():
    with pytest.raises(CacheError, match="LOCAL_RANK is ''"):
        own_gpus({"LOCAL_WORLD_SIZE": "2"}, 4)
    launch = {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert own_gpus(launch, 8) == ["4", "5", "6", "7"]
    assert own_gpus({**launch, "CUDA_VISIBLE_DEVICES": "3,5,6,7"}, 4) == ["6", "7"]
    assert own_gpus(launch, 1) == ["0"] and own_gpus(launch, 0) == []
