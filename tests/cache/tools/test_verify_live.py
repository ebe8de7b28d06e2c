"""Comparing a cache with its teacher: a sound one passes, a wrong one is named by document."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cache.teacher.rows
import cache.tools.verify_live
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.reading.reader import CacheReader
from cache.storage.finish import finish_cache
from cache.storage.manifest import Manifest
from cache.storage.shard import ShardFile, write_shard
from cache.targets.format import TargetFormat
from cache.targets.row_codec import RowCodec
from cache.tools.live_rows import VARIATION, compare_rows
from cache.tools.verify import verify_cache
from cache.tools.verify_live import verify_live
from tests.support.command_line import run
from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_teacher


def rewrite_shard(directory: Path, number: int, change: Callable[[dict], None]) -> None:
    """Change the arrays of a shard so that no checksum tells."""
    manifest = Manifest.read(directory)
    shard = manifest.plan.shards[number]
    path = directory / shard.path
    with ShardFile(directory, shard, manifest.identity) as file:
        arrays = file.read_all()
    change(arrays)
    write_shard(path, arrays, identity_sha256=manifest.identity.shard_sha256)
    sealed = {"num_bytes": path.stat().st_size, "sha256": file_sha256(path)}
    files = [replace(f, **sealed) if f.path == shard.path else f for f in manifest.files]
    replace(manifest, files=tuple(files)).write(directory)


@pytest.fixture(scope="module")
def half_cache(tmp_path_factory, tiny_teacher) -> Path:
    """A cache whose logprobs are fp16: 8 train documents in several shards."""
    out = tmp_path_factory.mktemp("caches") / "half"
    build(out, tiny_teacher, targets=TargetFormat(top_k=16, logprob_bits=16))
    return out


def build(out: Path, teacher: Path, **options) -> None:
    """A cache of 8 documents."""
    defaults = {"dataset": str(EXAMPLES), "splits": ("train",), "limit": 8, "shard_tokens": 1000}
    build_cache(BuildConfig(out=out, teacher=str(teacher), **{**defaults, **options}))


@pytest.fixture
def copy(tmp_path, half_cache) -> Path:
    """A copy of the fp16 cache that a test may change."""
    return Path(shutil.copytree(half_cache, tmp_path / "copy"))


def test_a_sound_cache_passes_on_every_document(tiny_cache):
    report = verify_live(tiny_cache, num_documents=100, seed=0)
    assert report.problems == []
    with CacheReader(tiny_cache) as reader:
        lengths = [reader.document_lengths(split) for split in reader.splits]
    assert report.documents == 34
    assert report.rows == sum(int((length - 1).sum()) for length in lengths)
    for name, difference in report.largest_differences.items():
        assert 0 <= difference < report.tolerances[name] < 0.2
    assert set(report.variations) == {1.0, 2.0}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_cache_of_a_teacher_in_half_precision_passes(tmp_path, tiny_teacher, dtype):
    build(tmp_path / "c", tiny_teacher, dtype=dtype)
    report = verify_live(tmp_path / "c", num_documents=6, seed=0)
    assert report.faults == () and report.rows > 1000
    assert report.tolerances["topk_logprobs"] > 0.005


def test_the_seed_chooses_the_documents(tiny_cache, monkeypatch):
    chosen: list[tuple[str, int]] = []
    compare = cache.tools.verify_live._compare_document

    def note(reader, teacher, codec, split, index, document):
        chosen.append((split, index))
        return compare(reader, teacher, codec, split, index, document)

    monkeypatch.setattr(cache.tools.verify_live, "_compare_document", note)
    for seed in (0, 0, 1):
        verify_live(tiny_cache, num_documents=3, seed=seed)
    assert len(set(chosen[:3])) == 3
    assert chosen[:3] == chosen[3:6] != chosen[6:]


def test_slices_of_rows_change_nothing(tiny_cache, monkeypatch):
    whole = verify_live(tiny_cache, num_documents=3, seed=0)
    monkeypatch.setitem(cache.teacher.rows.REDUCE_BYTES, "cpu", 384 * 4 * 7)
    sliced = verify_live(tiny_cache, num_documents=3, seed=0)
    assert sliced.rows == whole.rows and sliced.problems == []
    for name, difference in whole.largest_differences.items():
        assert sliced.largest_differences[name] == pytest.approx(difference, abs=1e-4)


def test_another_teacher_is_refused_by_what_differs(tmp_path, tiny_cache, tiny_teacher):
    save_teacher(tmp_path / "other", seed=1)
    wanted = Manifest.read(tiny_cache).identity.teacher_sha256
    with pytest.raises(CacheError, match=f"teacher_sha256: '{wanted}' there"):
        verify_live(tiny_cache, num_documents=1, seed=0, teacher=str(tmp_path / "other"))
    shutil.copytree(tiny_teacher, tmp_path / "bent")
    settings = json.loads((tmp_path / "bent" / "config.json").read_text())
    (tmp_path / "bent" / "config.json").write_text(json.dumps(settings | {"norm_epsilon": 0.5}))
    with pytest.raises(CacheError, match="configuration.norm_epsilon: 1e-05 there, 0.5 asked for"):
        verify_live(tiny_cache, num_documents=1, seed=0, teacher=str(tmp_path / "bent"))


def test_the_teacher_may_stand_elsewhere(tmp_path, tiny_cache, tiny_teacher):
    moved = shutil.copytree(tiny_teacher, tmp_path / "moved")
    report = verify_live(tiny_cache, num_documents=1, seed=0, teacher=str(moved))
    assert report.faults == ()


@pytest.mark.parametrize("name", ["topk_logprobs", "gold_logprob", "entropy"])
def test_values_shifted_by_a_tenth_are_found_and_their_documents_named(copy, name):
    def shift(arrays):
        arrays[name] += np.float16(0.1 if name == "entropy" else -0.1)

    rewrite_shard(copy, 1, shift)
    assert verify_cache(copy) == []
    report = verify_live(copy, num_documents=100, seed=0)
    shard = Manifest.read(copy).plan.shards[1]
    documents = range(shard.first_document, shard.first_document + shard.num_documents)
    assert [(f.split, f.index) for f in report.faults] == [("train", i) for i in documents]
    assert report.largest_differences[name] > 0.09
    with CacheReader(copy) as reader:
        for fault in report.faults:
            documents = reader.read("train", [fault.index])
            assert fault.quantity == name
            assert fault.task_id == documents.task_ids[0]
            assert abs(fault.stored - fault.live) == pytest.approx(0.1, abs=0.01)
            assert fault.num_rows == documents.targets.num_rows
            assert f"document {fault.index} (task_id {fault.task_id}), row" in str(fault)


@pytest.mark.parametrize(
    "targets",
    [
        TargetFormat(top_p=0.9),
        TargetFormat(top_p=0.9, logprob_bits=16),
        TargetFormat(tail="hidden"),
        TargetFormat(tail="lowrank", tail_rank=8),
        TargetFormat(tail="sampled"),
        TargetFormat(tail="renormalize", top_k=1000),
    ],
)
def test_every_target_format_passes(tmp_path, tiny_teacher, targets):
    build(tmp_path / "c", tiny_teacher, targets=targets)
    assert verify_live(tmp_path / "c", num_documents=4, seed=0).faults == ()


def test_logprobs_whose_codes_are_shifted_are_found(tmp_path, tiny_cache):
    copy = Path(shutil.copytree(tiny_cache, tmp_path / "copy"))

    def shift(arrays):
        arrays["topk_logprobs"][:, 0] += 3  # stored as differences: every code of a row moves

    rewrite_shard(copy, 0, shift)
    assert verify_cache(copy) == []
    report = verify_live(copy, num_documents=100, seed=0)
    shard = Manifest.read(copy).plan.shards[0]
    assert [fault.index for fault in report.faults] == list(range(shard.num_documents))
    assert {fault.quantity for fault in report.faults} == {"topk_logprobs"}


def test_one_wrong_row_is_named(copy):
    def spoil(arrays):
        arrays["gold_logprob"][40] = -20

    rewrite_shard(copy, 0, spoil)
    (fault,) = verify_live(copy, num_documents=100, seed=0).faults
    assert (fault.split, fault.index, fault.row, fault.num_rows) == ("train", 0, 40, 1)
    assert fault.stored == -20


def reseal_tail(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tail's file and everything that bears its hash."""
    path = directory / "tail.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    manifest = Manifest.read(directory)
    identity = replace(manifest.identity, tail_sha256=file_sha256(path))
    for shard in manifest.plan.shards:
        with ShardFile(directory, shard, manifest.identity) as file:
            arrays = file.read_all()
        write_shard(directory / shard.path, arrays, identity_sha256=identity.shard_sha256)
    plan = replace(manifest.plan, identity=identity)
    plan.write(directory)
    finish_cache(directory, plan, device="cpu")  # measures nothing anew


LOWRANK = TargetFormat(tail="lowrank", tail_rank=32, tail_bytes=20.0)


@pytest.fixture(scope="module")
def tailed(tmp_path_factory, tiny_teacher) -> dict[str, Path]:
    """Caches of 8 documents, by tail."""
    folder = tmp_path_factory.mktemp("tailed")
    formats = [
        LOWRANK,
        TargetFormat(tail="hidden"),
        TargetFormat(tail="sampled"),
        TargetFormat(top_p=0.9, tail="mass"),
    ]
    for targets in formats:
        build(folder / targets.tail, tiny_teacher, targets=targets)
    return {targets.tail: folder / targets.tail for targets in formats}


def test_a_basis_of_another_teacher_is_found(tmp_path, tailed):
    save_teacher(tmp_path / "other", seed=1)
    build(tmp_path / "foreign", tmp_path / "other", targets=LOWRANK)
    foreign = load_file(tmp_path / "foreign" / "tail.safetensors")
    copy = Path(shutil.copytree(tailed["lowrank"], tmp_path / "copy"))
    names = ("basis", "mean", "center", "projection")
    reseal_tail(copy, lambda tensors: tensors.update({n: foreign[n] for n in names}))
    report = verify_live(copy, num_documents=3, seed=0)
    assert "was not made from this teacher's output head" in str(report.tail_problem)
    assert all(mean > most for mean, most in report.variations.values())


def test_a_tail_made_from_the_wrong_head_is_found(tmp_path, tailed):
    copy = Path(shutil.copytree(tailed["hidden"], tmp_path / "copy"))
    reseal_tail(copy, lambda tensors: tensors.update(weight=tensors["weight"].flip(0).contiguous()))
    report = verify_live(copy, num_documents=3, seed=0)
    assert "was not made from this teacher's output head" in str(report.tail_problem)
    assert all(mean > most for mean, most in report.variations.values())


def test_targets_that_are_nan_are_found(tmp_path, tailed):
    copy = Path(shutil.copytree(tailed["lowrank"], tmp_path / "copy"))
    reseal_tail(copy, lambda tensors: tensors["basis"][:, 0].fill_(torch.nan))
    report = verify_live(copy, num_documents=3, seed=0)
    assert {fault.quantity for fault in report.faults} == {f"{VARIATION} at T = 1"}
    assert len(report.faults) == 3
    code, output = run("cache", "verify", copy, "--live", 2)
    assert code == 1 and "does not hold what its teacher says" in output


@pytest.mark.parametrize(
    "tail, name, quantity",
    [
        ("lowrank", "tail_log_mass", "tail_log_mass"),
        ("mass", "tail_log_mass", "tail_log_mass"),
        ("hidden", "tail_hidden", VARIATION),
        ("sampled", "tail_logprobs", "tail_logprobs"),
        ("sampled", "tail_ids", "tail_logprobs"),
        ("mass", "topk_ids", "topk_logprobs"),
    ],
)
def test_tails_of_other_rows_are_found(tmp_path, tailed, tail, name, quantity):
    copy = Path(shutil.copytree(tailed[tail], tmp_path / "copy"))

    def roll(arrays):
        arrays[name] = np.roll(arrays[name], 7, axis=0)

    rewrite_shard(copy, 0, roll)
    report = verify_live(copy, num_documents=100, seed=0)
    assert any(fault.quantity.startswith(quantity) for fault in report.faults)
    shard = Manifest.read(copy).plan.shards[0]
    assert {fault.index for fault in report.faults} == set(range(shard.num_documents))


LOGITS = torch.tensor([[4.0, 3.0, 2.0, 2.0, 0.0, -1.0]])


def compared(topk_ids: list[int], top_p: float | None = None, **changes) -> set[str]:
    """Quantities beyond their tolerance, of rows that a cache could hold of LOGITS."""
    targets = TargetFormat(top_k=len(topk_ids), top_p=top_p, logprob_bits=16, tail="mass")
    codec = RowCodec(targets, LOGITS.shape[-1])
    live = codec.encode(LOGITS, torch.zeros(1, 1), torch.tensor([1]))
    ids = torch.tensor([topk_ids])
    stored = {**live, "topk_ids": ids}
    logprobs = LOGITS.log_softmax(-1).gather(-1, ids).half()
    stored["topk_logprobs"] = torch.where(live["topk_logprobs"].isneginf(), -torch.inf, logprobs)
    found = compare_rows(LOGITS, stored | changes, live, codec, torch.float32)
    return {name for name, rows in found.items() if bool((rows.excess > 0).any())}


def test_equal_logprobs_may_stand_in_any_order_but_none_may_be_missing():
    for ids in ([0, 1, 2], [0, 1, 3], [0, 1, 2, 3], [0, 1, 3, 2]):
        assert not compared(ids), ids
    for ids in ([0, 2, 3], [1, 2, 3], [0, 1, 4]):
        assert "topk_logprobs" in compared(ids), ids


def test_unused_entries_are_not_compared():
    assert not compared([0, 1, 0], top_p=0.8)


def test_nan_and_minus_infinity_are_beyond():
    for value in (torch.nan, -torch.inf):
        bad = torch.tensor([value]).half()
        assert "gold_logprob" in compared([0, 1], gold_logprob=bad)
        assert "topk_logprobs" in compared([0, 1], topk_logprobs=bad.expand(1, 2))


def test_a_number_of_documents_below_1_is_refused(tiny_cache):
    with pytest.raises(CacheError, match="num_documents is 0; it must be 1 or more"):
        verify_live(tiny_cache, num_documents=0, seed=0)


def test_an_unknown_dtype_of_the_identity_is_refused(copy):
    manifest = Manifest.read(copy)
    identity = replace(manifest.identity, dtype="int4")
    replace(manifest, plan=replace(manifest.plan, identity=identity)).write(copy)
    with pytest.raises(
        CacheError, match="ran in 'int4', which is none of bfloat16, float16, float32"
    ):
        verify_live(copy, num_documents=1, seed=0)


def test_the_command_reports_and_ends_with_exit_code_1_on_a_fault(copy, tiny_teacher):
    code, output = run("cache", "verify", copy, "--live", 2, "--teacher", tiny_teacher)
    assert code == 0, output
    assert "is sound" in output and "The teacher ran again on 2 documents" in output
    assert "gold_logprob: largest difference" in output

    def shift(arrays):
        arrays["gold_logprob"] -= np.float16(0.1)

    rewrite_shard(copy, 0, shift)
    code, output = run("cache", "verify", copy, "--live", 100)
    assert code == 1
    assert "train document 0 (task_id 601), row" in output
    assert "does not hold what its teacher says" in output
