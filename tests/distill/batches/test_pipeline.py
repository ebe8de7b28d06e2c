"""From shards on disk to batches: each group of rows unpacked once, in bounded memory."""

import shutil
import threading

import h5py
import numpy as np
import pytest
import torch

import cache.reading.open_shards
import distill.batches.shuffle
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.batches.epochs import Epochs
from tests.support.distill_fakes import small_recipe
from tests.support.paths import EXAMPLES


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory, tiny_teacher):
    """A cache of 24 training documents, two or three a shard, with a low-rank tail."""
    out = tmp_path_factory.mktemp("caches") / "many"
    targets = TargetFormat(top_k=4, tail_rank=8, tail_bytes=4)
    teacher, dataset = str(tiny_teacher), str(EXAMPLES)
    build_cache(
        BuildConfig(
            out=out, teacher=teacher, dataset=dataset, targets=targets, limit=24, shard_tokens=600
        )
    )
    return out


@pytest.fixture
def small_window(monkeypatch):
    """Two blocks take turns, three groups are kept, a group is a block, one file is open."""
    monkeypatch.setattr(cache.reading.open_shards, "BLOCK_BYTES", 1)
    monkeypatch.setattr(cache.reading.open_shards, "KEPT_BLOCKS", 3)
    monkeypatch.setattr(cache.reading.open_shards, "MAX_OPEN", 1)
    monkeypatch.setattr(distill.batches.shuffle, "WINDOW_BLOCKS", 2)


def num_shards(directory):
    return len(list((directory / "train").iterdir()))


def read_epoch(reader, **recipe):
    epochs = Epochs(reader, small_recipe(batch_size=1, accumulate=2, **recipe), pad_id=0)
    with epochs.training_steps(0) as steps:
        return [batch for step in steps for batch in step]


def test_blocks_are_stretches_of_documents_inside_a_shard(many_shards, monkeypatch):
    with CacheReader(many_shards) as reader:
        blocks = reader.document_blocks("train")
        assert blocks.tolist() == sorted(blocks)
        assert blocks.max() + 1 == num_shards(many_shards) >= 8
        assert np.bincount(blocks).min() >= 1
    # Rows 0-99 of a shard are its first block, and so on; a document counts by its first row.
    monkeypatch.setattr(cache.reading.open_shards, "GROUP_ROWS", 100)
    monkeypatch.setattr(cache.reading.open_shards, "BLOCK_BYTES", 1)
    with CacheReader(many_shards) as reader:
        lengths = reader.document_lengths("train")
        finer = reader.document_blocks("train")
    firsts = [np.cumsum(lengths[blocks == b] - 1) - lengths[blocks == b] + 1 for b in set(blocks)]
    assert [len(set(first // 100)) for first in firsts] == [
        len(set(finer[blocks == b])) for b in set(blocks)
    ]


def test_an_epoch_unpacks_every_group_once_and_keeps_few(many_shards, small_window, monkeypatch):
    kept = []
    unpack = cache.reading.open_shards.OpenShards._unpack

    def counted(self, plan, begin):
        kept.append(self.num_kept + 1)
        return unpack(self, plan, begin)

    monkeypatch.setattr(cache.reading.open_shards.OpenShards, "_unpack", counted)
    with CacheReader(many_shards) as reader:
        read_epoch(reader, batching="packed")
        assert reader.shards.num_unpacked == num_shards(many_shards)
        assert max(kept) == reader.shards.max_groups == 3
        order = np.random.default_rng(0).permutation(24)
        for index in order:  # any order can be read, but costs more
            reader.read("train", [index])
        assert reader.shards.num_unpacked > 1.5 * num_shards(many_shards)
        assert max(kept) == 3


def test_what_is_read_does_not_depend_on_what_is_kept(many_shards, small_window):
    with CacheReader(many_shards) as reader:
        order = np.random.default_rng(1).permutation(24).tolist()
        together = reader.read("train", order)
        names = ("topk_ids", "topk_logprobs")
        apart = [reader.read("train", [index]) for index in order]
        for name in names:
            expected = torch.cat([getattr(documents.targets, name) for documents in apart])
            assert torch.equal(getattr(together.targets, name), expected)
        coefficients = torch.cat([documents.targets.tail.coefficients for documents in apart])
        torch.testing.assert_close(together.targets.tail.coefficients, coefficients)
        tokens = np.concatenate([documents.token_ids for documents in apart])
        assert together.token_ids.tolist() == tokens.tolist()


def test_threads_may_share_a_reader(many_shards, small_window):
    with CacheReader(many_shards) as reader:
        expected = {index: reader.read("train", [index]).token_ids.tolist() for index in range(24)}
        found: list[bool] = []

        def read(seed):
            for index in np.random.default_rng(seed).permutation(24):
                found.append(reader.read("train", [index]).token_ids.tolist() == expected[index])

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 96


def test_a_damaged_shard_ends_the_epoch_with_its_name(many_shards, tmp_path):
    copy = shutil.copytree(many_shards, tmp_path / "copy")
    shard = copy / "train" / "shard-00003.h5"
    with h5py.File(shard, "r") as file:
        chunk = file["topk_ids"].id.get_chunk_info(0)
    content = bytearray(shard.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    shard.write_bytes(content)
    with CacheReader(copy) as reader:
        with pytest.raises(CacheError, match="shard-00003.h5, topk_ids: damaged"):
            read_epoch(reader)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("batching", ["grouped", "packed"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_capped_validation_has_the_same_documents_on_any_number_of_processes(
    many_shards, batching, world_size
):
    recipe = small_recipe(validation_documents=4, batching=batching, batch_size=1, seed=world_size)
    task_ids: list[int] = []
    num_rows = 0
    with CacheReader(many_shards) as reader:
        wanted = reader.read("validation", [0, 2, 5, 7])  # evenly spaced among 10
        for rank in range(world_size):
            epochs = Epochs(reader, recipe, pad_id=0, rank=rank, world_size=world_size)
            with epochs.validation_steps() as steps:
                batches = [batch for step in steps for batch in step if batch.num_rows]
            task_ids += [task_id for batch in batches for task_id in batch.task_ids]
            num_rows += sum(batch.num_rows for batch in batches)
    assert sorted(task_ids) == sorted(wanted.task_ids.tolist())
    assert num_rows == wanted.token_offsets[-1] - 4
