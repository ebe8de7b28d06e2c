"""Shards whose datasets lead elsewhere: into another file, or under another name."""

import shutil

import h5py
import pytest

from cache.errors import CacheError
from cache.storage.manifest import Manifest
from cache.storage.shard import ShardFile


def external_link(file: h5py.File, other: str) -> None:
    del file["topk_ids"]
    file["topk_ids"] = h5py.ExternalLink(other, "/topk_ids")


def external_storage(file: h5py.File, other: str) -> None:
    values = file["gold_rank"][:]
    del file["gold_rank"]
    where = [(other, 0, values.nbytes)]
    file.create_dataset("gold_rank", values.shape, values.dtype, external=where)


def soft_link(file: h5py.File, other: str) -> None:
    del file["entropy"]
    file["entropy"] = h5py.SoftLink("/gold_logprob")


def virtual_dataset(file: h5py.File, other: str) -> None:
    found = file["topk_ids"]
    layout = h5py.VirtualLayout(found.shape, found.dtype)
    layout[:] = h5py.VirtualSource(other, "topk_ids", shape=found.shape)
    del file["topk_ids"]
    file.create_virtual_dataset("topk_ids", layout)


def dangling_link(file: h5py.File, other: str) -> None:
    del file["topk_ids"]
    file["topk_ids"] = h5py.SoftLink("/nowhere")


def group(file: h5py.File, other: str) -> None:
    del file["topk_ids"]
    file.create_group("topk_ids")


@pytest.mark.parametrize(
    "change",
    [external_link, external_storage, soft_link, virtual_dataset, dangling_link, group],
)
def test_only_datasets_that_stand_in_the_file_itself_are_read(tmp_path, tiny_cache, change):
    manifest = Manifest.read(tiny_cache)
    shard = manifest.plan.shards[0]
    other = str(tiny_cache / shard.path)
    (tmp_path / "train").mkdir()
    shutil.copyfile(other, tmp_path / shard.path)
    with h5py.File(tmp_path / shard.path, "r+", libver=("v110", "v110")) as file:
        change(file, other)
    with pytest.raises(CacheError, match="not a plain dataset"):
        ShardFile(tmp_path, shard, manifest.identity)
