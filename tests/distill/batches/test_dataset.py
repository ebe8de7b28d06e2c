"""A cache as a torch Dataset: the order of training, in processes of any kind."""

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.batches.batch import collate
from distill.batches.dataset import BatchOrder, CachedDataset
from distill.batches.epoch_plan import plan_epoch
from distill.errors import DistillError
from tests.support.paths import EXAMPLES, ROOT


@pytest.fixture(scope="module")
def cache(tmp_path_factory, tiny_teacher):
    """A cache with a lowrank tail, whose basis all rows share."""
    out = tmp_path_factory.mktemp("dataset") / "cache"
    targets = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)
    build_cache(
        BuildConfig(
            out=out, teacher=str(tiny_teacher), dataset=str(EXAMPLES), targets=targets, limit=16,
            shard_tokens=1000,
        )
    )  # fmt: skip
    return out


def dense(batch):
    return batch.targets.at(2.0).to_dense(batch.targets.vocab_size)


def test_the_order_of_batches_is_that_of_training(cache):
    dataset = CachedDataset(cache)
    order = dataset.batch_sampler(3, seed=7)
    blocks = dataset.reader.document_blocks("train")
    for epoch in range(2):
        plan = plan_epoch(dataset.lengths, blocks, batch_size=3, accumulate=1, seed=7, epoch=epoch)
        expected = [np.concatenate(plan.step(n)[0]).tolist() for n in range(len(plan))]
        assert list(order) == expected and len(order) == len(expected)
    order.set_epoch(1)
    assert list(order) == expected
    documents = dataset.sampler(batch_size=3, seed=7)
    documents.set_epoch(1)
    assert list(documents) == [document for batch in expected for document in batch]
    assert len(documents) == len(dataset) == 16


@pytest.mark.parametrize("num_workers", [2, 3])
def test_each_worker_reads_blocks_of_its_own_and_all_together_every_document(num_workers):
    lengths, blocks = np.full(90, 9), np.arange(90) // 10
    order = BatchOrder(lengths, blocks, batch_size=4, seed=0, num_workers=num_workers)
    batches = list(order)
    assert sorted(document for batch in batches for document in batch) == list(range(90))
    seen = [set(), set(), set()]
    for number, batch in enumerate(batches[: len(batches) // 2]):
        seen[number % num_workers] |= set(blocks[batch].tolist())
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_what_one_process_reads(cache, method):
    dataset = CachedDataset(cache, loss_on="completion")
    expected = [
        collate(dataset.reader.read("train", documents), pad_id=0, loss_on="completion")
        for documents in dataset.batch_sampler(3, num_workers=2)
    ]  # the parent's files are open when the workers are made
    loader = DataLoader(
        dataset, batch_sampler=dataset.batch_sampler(3, num_workers=2), num_workers=2,
        collate_fn=dataset.collate, multiprocessing_context=method,
    )  # fmt: skip
    found = list(loader)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.task_ids == other.task_ids
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(dense(one), dense(other))
    shared = {id(batch.targets.tail.shared) for batch in found}
    assert len(shared) == 1  # the basis did not come with every batch


def test_a_reader_in_use_survives_a_fork(cache):
    """Files opened before belong to the parent: the child opens its own."""
    script = (
        "import os, sys, hashlib\n"
        "import torch; torch.set_num_threads(1)\n"  # OpenMP's threads do not survive a fork
        "from cache import CacheReader\n"
        "reader = CacheReader(sys.argv[1])\n"
        "before = reader.read('train', [0, 9]).token_ids.tobytes()\n"
        "with reader._lock:\n"  # as if another thread were reading at this moment
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        own = reader.shards\n"
        "        same = reader.read('train', [0, 9]).token_ids.tobytes() == before\n"
        "        os._exit(0 if same and reader.shards is not own else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert reader.read('train', [0, 9]).token_ids.tobytes() == before\n"
    )
    subprocess.run([sys.executable, "-c", script, str(cache)], cwd=ROOT, check=True)


def test_rows_from_another_process_need_their_cache_to_be_open(cache, tmp_path):
    with CacheReader(cache) as reader:
        with CacheReader(cache) as earlier:
            earlier.load_tail()
        del earlier
        gc.collect()  # a reader and its open shards know each other
        (tmp_path / "rows").write_bytes(pickle.dumps(reader.read("train", [0]).targets))
        loaded = pickle.loads((tmp_path / "rows").read_bytes())
        shared = reader.read("train", [1]).targets.tail.shared  # or another reader's, as equal
        device = torch.device("cpu")
        for found, own in zip(loaded.tail.shared.on(device), shared.on(device), strict=True):
            assert torch.equal(found, own)
        del loaded
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "rows")], cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    assert "CacheError: These soft targets come from another process" in done.stderr


def test_bad_input_is_a_sentence(cache):
    dataset = CachedDataset(cache)
    with pytest.raises(DistillError, match="batch_size is 0; it must be 1 or more"):
        dataset.batch_sampler(0)
    with pytest.raises(CacheError, match="no split 'test'"):
        CachedDataset(cache, "test")
    documents = dataset[0]
    with pytest.raises(DistillError, match="loss_on is 'code'; choose from all, completion"):
        collate(documents, pad_id=0, loss_on="code")
    with pytest.raises(DistillError, match=r"per_sequence counts \[2\] documents, but there are 1"):
        collate(documents, pad_id=0, per_sequence=[2])
