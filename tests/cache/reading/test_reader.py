"""Reading a cache back, and what damage to it looks like."""

import json
import pickle
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json
from cache.reading.reader import CacheReader
from cache.storage.facts import split_sizes
from cache.storage.layout import ANY, ShardLayout
from cache.storage.manifest import Manifest, Plan
from cache.storage.shard import write_shard
from cache.targets.format import TargetFormat
from cache.tools.inspect import example_tokens
from cache.tools.verify import row_problems, verify_cache


@pytest.fixture
def copy(tmp_path, tiny_cache) -> Path:
    """A copy of the tiny cache that a test may damage."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "copy"))


def read_everything(directory: Path) -> None:
    with CacheReader(directory) as reader:
        for split in reader.splits:
            reader.read(split, range(reader.num_documents(split)))


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_documents_come_in_the_order_asked_for(tiny_cache):
    with CacheReader(tiny_cache) as reader:
        assert reader.splits == ["train", "validation"]
        assert reader.num_documents("train") == 24
        together = reader.read("train", [20, 0, 7])
        for position, index in enumerate([20, 0, 7]):
            alone = reader.read("train", [index])
            start, stop = together.token_offsets[position : position + 2]
            np.testing.assert_array_equal(together.token_ids[start:stop], alone.token_ids)
            rows = slice(int(start) - position, int(stop) - position - 1)
            np.testing.assert_array_equal(together.targets.topk_ids[rows], alone.targets.topk_ids)
            assert together.task_ids[position] == alone.task_ids[0]
            assert reader.document_lengths("train")[index] == len(alone.token_ids)


def test_a_pickled_reader_opens_its_own_files(tiny_cache):
    with CacheReader(tiny_cache) as reader:
        before = reader.read("validation", [1])
        copied = pickle.loads(pickle.dumps(reader))
    after = copied.read("validation", [1])
    copied.close()
    np.testing.assert_array_equal(before.token_ids, after.token_ids)


def test_what_is_not_there_is_named(tiny_cache, tmp_path):
    with CacheReader(tiny_cache) as reader:
        with pytest.raises(CacheError, match="no split 'test'; it has train, validation"):
            reader.num_documents("test")
        with pytest.raises(CacheError, match="documents 0 to 23; 24 was asked for"):
            reader.read("train", [24])
        with pytest.raises(CacheError, match="at least one document"):
            reader.read("train", [])
        with pytest.raises(CacheError, match="no dataset 'logits'"):
            reader.read_rows("train", [0], "logits")
    with pytest.raises(CacheError, match="There is no cache at .*\n.*cache-teacher --out"):
        CacheReader(tmp_path)


def test_a_sound_cache_has_no_faults(tiny_cache):
    seen: list[str] = []
    assert verify_cache(tiny_cache, seen.append) == []
    assert "train/shard-00000.h5" in seen and "tokenizer/tokenizer.json" in seen


@pytest.mark.parametrize("name", ["train/shard-00001.h5", "tokenizer/tokenizer.json"])
def test_verify_names_a_missing_a_cut_and_a_changed_file(copy, name):
    original = (copy / name).read_bytes()
    (copy / name).write_bytes(original[:-1])
    assert [(f.path, "promises" in f.problem) for f in verify_cache(copy)] == [(name, True)]
    (copy / name).write_bytes(original)
    flip_bit(copy / name, len(original) // 2)
    assert [(f.path, "sha256" in f.problem) for f in verify_cache(copy)] == [(name, True)]
    (copy / name).unlink()
    assert [(f.path, f.problem) for f in verify_cache(copy)] == [(name, "missing")]


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_all_damage_is_found_by_verify_and_none_crashes_a_reader(copy, count):
    files = [
        "manifest.json",
        "plan.json",
        "tail.safetensors",
        "train/shard-00000.h5",
        "validation/shard-00001.h5",
    ]
    chance = random.Random(0)
    for _ in range(count):
        name = chance.choice(files)
        original = (copy / name).read_bytes()
        if chance.random() < 0.2:
            (copy / name).write_bytes(original[: chance.randrange(len(original))])
        else:
            flip_bit(copy / name, chance.randrange(len(original)), chance.randrange(8))
        try:
            faults = [fault.path for fault in verify_cache(copy)]
        except CacheError as error:
            faults = [str(error)]
        assert any(name in fault for fault in faults), name
        try:
            read_everything(copy)
        except CacheError as error:
            assert name.split("/")[0] in str(error)
        (copy / name).write_bytes(original)
    assert verify_cache(copy) == []


def test_damaged_rows_are_not_handed_out(copy):
    shard = copy / "train" / "shard-00000.h5"
    with h5py.File(shard, "r") as file:
        chunk = file["topk_logprobs"].id.get_chunk_info(0)
    flip_bit(shard, chunk.byte_offset + chunk.size // 2)
    with pytest.raises(CacheError, match="shard-00000.h5, topk_logprobs: damaged"):
        read_everything(copy)


def test_a_cut_shard_is_refused_before_it_is_opened(copy):
    shard = copy / "train" / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CacheError, match="has 1000 bytes, the manifest promises"):
        read_everything(copy)


def test_a_missing_shard_is_named_with_its_remedy(copy):
    (copy / "train" / "shard-00002.h5").unlink()
    with pytest.raises(CacheError, match="shard-00002.h5 is missing.*only that shard"):
        read_everything(copy)


def test_a_shard_of_another_cache_is_refused(copy):
    manifest = Manifest.read(copy)
    shard = manifest.plan.shards[0]
    layout = ShardLayout.of(manifest.identity)
    arrays = {
        name: np.zeros((0, *shape[1:]) if shape[0] == ANY else shape, dtype)
        for name, (dtype, shape) in layout.datasets(shard.num_documents, shard.num_tokens).items()
    }
    write_shard(copy / shard.path, arrays, identity_sha256="0" * 64)
    content = read_sealed_json(copy / "manifest.json")
    for file in content["files"]:
        if file["path"] == shard.path:
            file["num_bytes"] = (copy / shard.path).stat().st_size
    write_sealed_json(copy / "manifest.json", content)
    with pytest.raises(CacheError, match="belongs to another cache"):
        read_everything(copy)


def change_manifest(copy: Path, change) -> None:
    content = read_sealed_json(copy / "manifest.json")
    change(content)
    write_sealed_json(copy / "manifest.json", content)


def test_shapes_beyond_the_manifest_are_refused_before_anything_is_read(copy):
    def grow(manifest):
        manifest["plan"]["shards"][0]["num_tokens"] += 10**12

    change_manifest(copy, grow)
    with pytest.raises(CacheError, match="where the manifest needs"):
        read_everything(copy)


def test_verify_finds_a_plan_that_is_not_the_manifests(copy):
    plan = Plan.read(copy)
    write_sealed_json(
        copy / "plan.json", {**read_sealed_json(copy / "plan.json"), "batch_tokens": 7}
    )
    assert plan.batch_tokens != 7
    assert [f.path for f in verify_cache(copy)] == ["plan.json"]


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b"{" * 10000, b'{"checksum": 1}'])
def test_json_that_was_not_sealed_is_refused(tmp_path, raw):
    (tmp_path / "f.json").write_bytes(raw)
    with pytest.raises(CacheError, match="is damaged: it is not what was written"):
        read_sealed_json(tmp_path / "f.json")


def sound_arrays() -> dict[str, np.ndarray]:
    return {
        "topk_ids": np.array([[1, 2], [3, 0]]),
        "topk_logprobs": np.log(np.array([[0.6, 0.3], [0.5, 0.2]], dtype=np.float16)),
        "gold_logprob": np.array([-0.5, -3.0], dtype=np.float16),
        "gold_rank": np.array([0, 3]),
        "entropy": np.array([0.5, 1.0], dtype=np.float16),
    }


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("topk_ids", [[1, 4], [3, 0]], "topk_ids reach beyond the vocabulary of 4"),
        ("topk_ids", [[1, 1], [3, 0]], "a row holds a token twice"),
        ("topk_logprobs", [[-0.5, np.nan], [-1, -2]], "a logprob is NaN"),
        ("topk_logprobs", [[0.5, -1], [-1, -2]], "a logprob is above 0"),
        ("topk_logprobs", [[-2, -1], [-1, -2]], "do not descend"),
        ("topk_logprobs", [[-0.1, -0.2], [-1, -2]], "mass above 1"),
        ("entropy", [0.5, 9.0], "an entropy is outside"),
        ("gold_rank", [0, 4], "gold_rank reach beyond"),
    ],
)
def test_impossible_values_are_put_in_words(name, value, problem):
    sound = sound_arrays()
    assert list(row_problems(sound, sound["topk_logprobs"], 4)) == []
    arrays = {**sound, name: np.array(value)}
    found = row_problems(arrays, arrays["topk_logprobs"], 4)
    assert [problem in words for words in found] == [True]


def test_ids_take_two_bytes_up_to_a_vocabulary_of_65536():
    sizes = [ShardLayout(vocab_size=v, targets=TargetFormat()).id_dtype for v in (65536, 65537)]
    assert [dtype.itemsize for dtype in sizes] == [2, 4]


def test_inspection_tells_sizes_mass_and_an_example(tiny_cache):
    from transformers import AutoTokenizer

    with CacheReader(tiny_cache) as reader:
        sizes = split_sizes(reader.manifest)
        assert [size.num_documents for size in sizes] == [24, 10]
        assert sizes[0].num_bytes == sum(p.stat().st_size for p in (tiny_cache / "train").iterdir())
        fidelity = reader.fidelity()
        assert [row.temperature for row in fidelity] == [1.0, 1.5, 2.0, 3.0]
        assert 0 < fidelity[2].captured < fidelity[0].captured < 1
        tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
        examples = example_tokens(reader, tokenizer, "train", 0, first=0, count=5, top=3)
        assert "".join(example.token for example in examples) in json.dumps(
            tokenizer.decode(reader.read("train", [0]).token_ids.tolist())
        )
        assert all(len(example.top) == 3 for example in examples)
