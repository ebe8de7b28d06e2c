"""What killed writers left in a cache goes; what others keep beside or inside of it stays."""

from pathlib import Path

import pytest

from cache.building.local import build_cache
from cache.data.spool import Spool, remove_spool
from cache.storage.left_over import remove_left_over
from tests.support.builds import config_of

OURS = [
    "plan.json.node-1.partial",
    "manifest.json.node.of.a.cluster-4026531836-17.partial",
    "tail.safetensors.node-1.partial",
    "README.md.node-1.partial",
    "worker-0-of-2.json.node-1.partial",
    "writing.lock.0123456789abcdef.partial",
    "train/shard-00000.h5.node-1.partial",
    "validation/shard-00012.h5.node-ab12-3.partial",
    "lengths/train-10.npy.node-1.partial",
    "tokenizer/tokenizer.json.node-1.partial",
    "tokenizer/additional_chat_templates/x.jinja.node-1.partial",
]
OTHERS = [
    "download.partial",
    "film.mkv.node-1.partial",
    "plan.json.partial",
    "train/x.partial",
    "train/notes.txt.node-1.partial",
    "test/shard-00000.h5.node-1.partial",
    "other-build/train/shard-00000.h5.node-1.partial",
    "train/deeper/shard-00000.h5.node-1.partial",
    "corpus/mine.txt",
    "worker-notes.json",
]


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_only_files_that_a_cache_names_are_removed(tmp_path):
    put(tmp_path, OURS + OTHERS)
    remove_left_over(tmp_path, ["train", "validation"])
    assert names_in(tmp_path) == sorted(OTHERS)


def test_of_living_processes_of_other_hosts_nothing_is_removed(tmp_path):
    put(tmp_path, OURS)
    remove_left_over(tmp_path, ["train", "validation"], of_the_dead=True)
    assert names_in(tmp_path) == sorted(OURS)


def test_a_build_beside_other_peoples_files_leaves_them_alone(tmp_path, tiny_teacher):
    put(tmp_path / "runs", OTHERS)
    build_cache(config_of(tmp_path / "runs", tiny_teacher, limit=2))
    assert set(OTHERS) <= set(names_in(tmp_path / "runs"))


@pytest.mark.parametrize("names", [[], ["mine.txt", "train/mine.npy"]])
def test_a_spool_is_removed_with_its_own_files_alone(tmp_path, names):
    spool = Spool(tmp_path / "corpus", ["train"], max_length=8, shard_tokens=8, options={})
    spool.finish()
    put(tmp_path / "corpus", [*names, "train/shard-00000.npy", "train/shard-00001.npy.a-1.partial"])
    remove_spool(tmp_path)
    assert names_in(tmp_path) == [f"corpus/{name}" for name in names]
    assert (tmp_path / "corpus").exists() == bool(names)
