"""A cache again with other targets: what is given up is exact, what is not known is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache.teacher.rows
import cache.tools.reencode
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.storage.manifest import Manifest, Plan
from cache.targets.derive import changed_targets, derive_rows, require_derivable
from cache.targets.format import TargetFormat
from cache.targets.row_codec import RowCodec
from cache.targets.tail_mass import decode_log_mass
from cache.tools.reencode import reencode_cache
from cache.tools.verify import verify_cache
from tests.support.command_line import run
from tests.support.paths import EXAMPLES
from tests.support.synthetic import random_logits

WHAT = {
    "mass": TargetFormat(top_k=16, tail="mass"),
    "fp16": TargetFormat(top_k=16, tail="mass", logprob_bits=16),
    "ragged": TargetFormat(top_k=16, tail="mass", top_p=0.8),
    "lowrank": TargetFormat(top_k=16, tail="lowrank", tail_rank=32, tail_bytes=20.0),
    "sampled": TargetFormat(top_k=16, tail="sampled", tail_samples=8),
    "hidden": TargetFormat(top_k=16, tail="hidden"),
}


def build(out: Path, teacher: Path, targets: TargetFormat) -> Path:
    build_cache(
        BuildConfig(
            out=out, teacher=str(teacher), dataset=str(EXAMPLES), limit=10, max_length=512,
            shard_tokens=1000, batch_tokens=2048, targets=targets,
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_teacher) -> dict[str, Path]:
    """A cache of each format."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: build(folder / name, tiny_teacher, targets) for name, targets in WHAT.items()}


def distribution(directory: Path, temperature: float) -> torch.Tensor:
    """(N, V) of the validation split."""
    with CacheReader(directory) as reader:
        documents = reader.read("validation", range(reader.num_documents("validation")))
        return documents.targets.at(temperature).to_dense(reader.vocab_size)


def distances(first: Path, second: Path, temperature: float) -> torch.Tensor:
    """(N,) total variation of each row."""
    p, q = (distribution(path, temperature) for path in (first, second))
    return (p - q).abs().sum(-1) / 2


def lossless_fields(directory: Path) -> list[np.ndarray]:
    with CacheReader(directory) as reader:
        names = ("entropy", "gold_logprob", "gold_rank")
        documents = reader.read("train", [3, 0])
        return [reader.read_rows("train", [3, 0], n) for n in names] + [documents.token_ids]


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("mass", {"top_k": 8}),
        ("mass", {"top_p": 0.7}),
        ("mass", {"tail": "renormalize", "top_k": 4}),
        ("fp16", {"logprob_bits": 8}),
        ("fp16", {"top_k": 8}),
        ("ragged", {"top_k": 4}),
        ("ragged", {"top_p": 0.5}),
        ("lowrank", {"tail": "mass"}),
        ("lowrank", {"tail": "mass", "top_k": 8}),
        ("sampled", {"tail": "mass"}),
        ("hidden", {"tail": "mass", "top_k": 8}),
        ("hidden", {"top_k": 24}),
        ("hidden", {"tail": "renormalize", "logprob_bits": 16}),
    ],
    ids=str,
)  # fmt: skip
def test_a_reencoded_cache_is_the_one_built_with_those_targets(
    tmp_path, tiny_teacher, sources, source, changes
):
    targets = changed_targets(WHAT[source], changes)
    manifest = reencode_cache(sources[source], tmp_path / "r", targets)
    built = build(tmp_path / "b", tiny_teacher, targets)
    assert verify_cache(tmp_path / "r") == []
    assert manifest.identity.targets == targets
    assert manifest.identity.sha256 != Manifest.read(sources[source]).identity.sha256
    for temperature in (1.0, 1.5, 3.0):
        found = distances(tmp_path / "r", built, temperature)
        # Hidden states in fp16 may swap two tokens that are all but equal at the end of the top-k.
        assert found.mean() < 3e-3 and found.max() < (0.1 if source == "hidden" else 0.015)
    for found, wanted in zip(lossless_fields(tmp_path / "r"), lossless_fields(built), strict=True):
        np.testing.assert_array_equal(found, wanted)


@given(
    top_k=st.integers(1, 40),
    fewer=st.integers(1, 40),
    top_p=st.sampled_from([None, 0.5, 0.95]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    seed=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_the_mass_of_dropped_entries_moves_into_the_tail(top_k, fewer, top_p, spread, seed):
    logits = random_logits(5, 60, spread, seed)
    gold = torch.zeros(5, dtype=torch.int64)
    source = RowCodec(TargetFormat(top_k=top_k, tail="mass", logprob_bits=16), 60)
    wanted = TargetFormat(top_k=min(fewer, top_k), tail="mass", logprob_bits=16, top_p=top_p)
    rows = source.encode(logits, torch.empty(0), gold)
    derived = derive_rows(rows, source, wanted)
    direct = RowCodec(wanted, 60).encode(logits, torch.empty(0), gold)
    same = torch.equal(torch.isinf(derived["topk_logprobs"]), torch.isinf(direct["topk_logprobs"]))
    if top_p is None and spread:  # equal logits have no order
        assert same and torch.equal(derived["topk_ids"], direct["topk_ids"])
    if same:  # a row whose mass is top_p to the last digit may end an entry earlier or later
        found, expected = (decode_log_mass(r["tail_log_mass"]) for r in (derived, direct))
        full = expected > -30  # what the tail lost to rounding below that is no matter
        difference = torch.where(full, found - expected, 0.0).abs()
        assert float(difference.max()) < 4e-3 + 4e-3 * float(logits.abs().max()) / 8


def test_fewer_draws_are_the_first_ones(tmp_path, sources):
    targets = changed_targets(WHAT["sampled"], {"tail_samples": 3})
    reencode_cache(sources["sampled"], tmp_path / "r", targets)
    assert verify_cache(tmp_path / "r") == []
    with CacheReader(tmp_path / "r") as fewer, CacheReader(sources["sampled"]) as all_draws:
        for name in ("tail_ids", "tail_logprobs"):
            wanted = all_draws.read_rows("train", [1], name)[:, :3]
            np.testing.assert_array_equal(fewer.read_rows("train", [1], name), wanted)


def test_hidden_tails_become_lowrank_ones_with_a_measured_fidelity(
    tmp_path, tiny_teacher, sources, monkeypatch
):
    # slices of 50 rows, as a large vocabulary would have: most hold no row that is measured
    monkeypatch.setitem(cache.teacher.rows.REDUCE_BYTES, "cpu", 50 * 4 * 384)
    targets = TargetFormat(top_k=8, tail="lowrank", tail_rank=32, tail_bytes=20.0)
    manifest = reencode_cache(sources["hidden"], tmp_path / "r", targets)
    assert verify_cache(tmp_path / "r") == []
    monkeypatch.undo()
    built = Manifest.read(build(tmp_path / "b", tiny_teacher, targets))
    least = sum(max(1, shard.num_rows // 128) for shard in manifest.plan.shards)
    assert least <= manifest.fidelity[0].num_rows <= least + len(manifest.plan.shards)
    assert manifest.identity.tail_width == 32 and manifest.identity.tail_sha256
    for found, wanted in zip(manifest.fidelity, built.fidelity, strict=True):
        assert found.temperature == wanted.temperature
        assert found.total_variation == pytest.approx(wanted.total_variation, rel=0.3, abs=3e-3)
    assert distances(tmp_path / "r", sources["hidden"], 2.0).mean() < 0.1


def test_hidden_tails_become_sampled_ones(tmp_path, sources):
    targets = TargetFormat(top_k=8, tail="sampled", tail_samples=4)
    manifest = reencode_cache(sources["hidden"], tmp_path / "r", targets)
    assert verify_cache(tmp_path / "r") == []
    assert manifest.identity.tail_width == 0 and manifest.identity.tail_sha256 == ""
    assert not (tmp_path / "r" / "tail.safetensors").exists()
    assert manifest.fidelity


def test_without_hidden_states_the_fidelity_is_not_measured_and_said_to_be_so(tmp_path, sources):
    code, output = run("cache", "reencode", sources["lowrank"], tmp_path / "r", "--tail", "mass")
    assert code == 0, output
    assert "Fidelity: not measured" in output
    assert "k = 16, 8-bit logprobs, tail mass" in " ".join(output.split())
    assert Manifest.read(tmp_path / "r").fidelity == ()
    code, output = run("cache", "inspect", tmp_path / "r")
    assert code == 0 and "Fidelity: not measured" in output


@pytest.mark.parametrize(
    ("source", "changes", "reason"),
    [
        ("mass", {}, "has these targets already .k = 16, 8-bit logprobs, tail mass."),
        ("mass", {"top_k": 17}, "it holds 16 entries a row, not 17"),
        ("mass", {"logprob_bits": 16}, "its logprobs have 8 bits"),
        ("mass", {"tail": "lowrank"}, "its tail is mass, which holds less than a lowrank tail"),
        ("mass", {"tail": "hidden"}, "holds less than a hidden tail"),
        ("ragged", {"top_p": 0.9}, "its rows end at top-p 0.8"),
        ("lowrank", {"tail_bytes": 10.0}, "already rounded for its own k, rank and bytes"),
        ("lowrank", {"top_k": 8}, "only a cache with hidden tails"),
        ("sampled", {"top_k": 8}, "its draws stand for what is outside of its own top-k"),
        ("sampled", {"tail_samples": 9}, "it holds 8 draws a row, not 9"),
    ],
    ids=str,
)
def test_what_the_rows_do_not_hold_is_refused_with_the_command_that_would_do(
    tmp_path, sources, source, changes, reason
):
    targets = changed_targets(WHAT[source], changes)
    with pytest.raises(CacheError, match=reason) as refusal:
        reencode_cache(sources[source], tmp_path / "r", targets)
    if changes:
        command = f"python cli.py cache-teacher {targets.options()} --out"
        assert command in str(refusal.value)
    assert not (tmp_path / "r").exists()


def test_renormalised_rows_have_no_tail_to_give():
    found = TargetFormat(tail="renormalize")
    with pytest.raises(CacheError, match="its tail is renormalize, which holds less than a mass"):
        require_derivable(found, TargetFormat(tail="mass"), "here")


@pytest.mark.parametrize("source", ["mass", "hidden"])
def test_a_stopped_call_goes_on_and_ends_with_the_same_files(
    tmp_path, sources, source, monkeypatch
):
    tail = "lowrank" if source == "hidden" else "mass"
    targets = TargetFormat(top_k=8, tail=tail, tail_rank=16, tail_bytes=10.0)
    whole = reencode_cache(sources[source], tmp_path / "whole", targets)
    written: list[Path] = []

    def write_one(path, arrays, **options):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_shard(path, arrays, **options)

    write_shard = cache.tools.reencode.write_shard
    monkeypatch.setattr(cache.tools.reencode, "write_shard", write_one)
    with pytest.raises(KeyboardInterrupt):
        reencode_cache(sources[source], tmp_path / "r", targets)
    before = written[0].stat().st_mtime_ns
    other = changed_targets(targets, {"top_k": 4})
    with pytest.raises(CacheError, match="unfinished cache that is not .* with these targets"):
        reencode_cache(sources[source], tmp_path / "r", other)
    monkeypatch.setattr(cache.tools.reencode, "write_shard", write_shard)
    assert reencode_cache(sources[source], tmp_path / "r", targets).files == whole.files
    assert written[0].stat().st_mtime_ns == before
    with pytest.raises(CacheError, match="complete cache at .* already; give another OUT"):
        reencode_cache(sources[source], tmp_path / "r", targets)


def test_a_damaged_source_is_refused(tmp_path, sources):
    copy = Path(shutil.copytree(sources["hidden"], tmp_path / "copy"))
    targets = TargetFormat(top_k=8, tail="mass")
    shard = copy / "train" / "shard-00000.h5"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CacheError, match="shard-00000.h5 is damaged: its sha256"):
        reencode_cache(copy, tmp_path / "r", targets)
    (copy / "tail.safetensors").unlink()
    with pytest.raises(CacheError, match="tail.safetensors is missing"):
        reencode_cache(copy, tmp_path / "q", targets)


def test_a_tail_left_by_a_call_that_was_killed_before_its_plan_is_not_used(
    tmp_path, sources, monkeypatch
):
    def die(*_):
        raise KeyboardInterrupt

    wanted = WHAT["lowrank"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Plan, "write", die)
        reencode_cache(sources["hidden"], tmp_path / "c", replace(wanted, tail_bytes=4.0))
    assert (tmp_path / "c" / "tail.safetensors").is_file()
    for name in ("c", "clean"):
        reencode_cache(sources["hidden"], tmp_path / name, wanted)
    identities = [Manifest.read(tmp_path / name).identity for name in ("c", "clean")]
    assert identities[0] == identities[1]
