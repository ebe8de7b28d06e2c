"""Several caches into one: the same rows, nothing mixed that differs, nothing half-done."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cache.machine.lock
import cache.teacher.teacher
import cache.tools.merge
import cache.tools.source
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import Corpus
from cache.errors import CacheError, CacheWarning
from cache.machine.durable import json_sha256, write_sealed_json
from cache.reading.reader import CacheReader
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.tools.merge import merge_caches
from cache.tools.verify import verify_cache
from tests.support.command_line import run
from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_teacher


def problems(split_start: int, first: int, count: int) -> list[str]:
    lines = EXAMPLES.read_text().splitlines()
    inside = [line for line in lines if split_start <= json.loads(line)["task_id"]]
    return inside[first : first + count]


def build(folder: Path, name: str, teacher: Path, lines: list[str], **options) -> Path:
    """A cache of some of the example problems."""
    folder.mkdir(exist_ok=True)
    dataset = folder / f"{name}.jsonl"
    dataset.write_text("\n".join(lines))
    defaults = {
        "splits": ("train",),
        "max_length": 512,
        "shard_tokens": 400,
        "batch_tokens": 64,
        "targets": TargetFormat(top_k=64, tail="mass"),  # shares nothing that other rows decide
    }
    config = BuildConfig(
        out=folder / name, teacher=str(teacher), dataset=str(dataset), **{**defaults, **options}
    )
    build_cache(config)
    return config.out


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tiny_teacher) -> dict[str, Path]:
    """Caches of train problems 0 to 4, of 5 to 8, and of validation problems."""
    folder = tmp_path_factory.mktemp("parts")
    train = problems(601, 0, 9)
    return {
        "first": build(folder, "first", tiny_teacher, train[:5]),
        "second": build(folder, "second", tiny_teacher, train[5:]),
        "validation": build(
            folder, "validation", tiny_teacher, problems(511, 0, 3),
            splits=("validation",),
        ),
    }  # fmt: skip


@pytest.fixture
def copy(tmp_path, parts) -> Path:
    """A copy of the second part that a test may damage."""
    return Path(shutil.copytree(parts["second"], tmp_path / "copy"))


def require_equal_documents(merged: CacheReader, source: Path, split: str, first: int) -> int:
    """The documents of a source stand in the merged cache from `first` on; how many there are."""
    with CacheReader(source) as reader:
        count = reader.num_documents(split)
        found = merged.read(split, range(first, first + count))
        wanted = reader.read(split, range(count))
        for name in ("task_ids", "token_ids", "token_offsets", "prompt_lengths"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        for name in ("topk_ids", "topk_logprobs"):
            np.testing.assert_array_equal(
                getattr(found.targets, name), getattr(wanted.targets, name)
            )
        distributions = [targets.at(1.5) for targets in (found.targets, wanted.targets)]
        np.testing.assert_array_equal(*(d.neg_entropy for d in distributions))
    return count


def test_a_merged_cache_is_sound_and_reads_back_the_rows_of_its_sources(tmp_path, parts):
    manifest = merge_caches(tmp_path / "m", list(parts.values()))
    assert verify_cache(tmp_path / "m") == []
    with CacheReader(tmp_path / "m") as merged:
        assert merged.manifest == manifest
        assert merged.splits == ["train", "validation"]
        first = require_equal_documents(merged, parts["first"], "train", 0)
        second = require_equal_documents(merged, parts["second"], "train", first)
        assert merged.num_documents("train") == first + second
        assert merged.document_lengths("train").sum() > 0
        require_equal_documents(merged, parts["validation"], "validation", 0)
        assert merged.tokenizer_path.joinpath("tokenizer.json").is_file()
    train = [shard for shard in manifest.plan.shards if shard.split == "train"]
    assert [shard.path for shard in train] == [f"train/shard-{i:05d}.h5" for i in range(len(train))]
    assert len(train) > 2


def test_the_dataset_hash_of_a_merged_split_lists_its_sources(tmp_path, parts):
    merged = merge_caches(tmp_path / "m", list(parts.values()))
    identities = {name: Manifest.read(path).identity for name, path in parts.items()}
    hashes = [identities[name].dataset_sha256["train"] for name in ("first", "second")]
    assert merged.identity.dataset_sha256 == {
        "train": json_sha256(hashes),
        "validation": identities["validation"].dataset_sha256["validation"],
    }
    assert identities["first"].dataset in merged.identity.dataset
    assert merged.created["device"] == "cpu"
    swapped = merge_caches(tmp_path / "s", [parts["second"], parts["first"]])
    assert swapped.identity.sha256 != merged.identity.sha256


def test_splits_built_apart_merge_to_the_cache_built_at_once(tmp_path, tiny_teacher):
    lines = problems(601, 0, 5) + problems(511, 0, 3)
    whole = build(tmp_path, "whole", tiny_teacher, lines, splits=("train", "validation"))
    apart = [
        build(tmp_path, split, tiny_teacher, lines, splits=(split,))
        for split in ("train", "validation")
    ]
    merged = merge_caches(tmp_path / "m", apart)
    wanted = Manifest.read(whole)
    assert merged.identity.sha256 == wanted.identity.sha256
    assert merged.plan.shards == wanted.plan.shards
    assert merged.files == wanted.files


def test_what_was_left_out_of_the_sources_stays_named(tmp_path, tiny_teacher):
    sources = [
        build(tmp_path, f"part-{first}", tiny_teacher, problems(601, first, 5), max_length=300)
        for first in (0, 5)
    ]
    dropped = [Manifest.read(path).plan.dropped["train"] for path in sources]
    assert dropped[0] and dropped[1]
    merged = merge_caches(tmp_path / "m", sources)
    assert merged.plan.dropped == {"train": dropped[0] + dropped[1]}


def test_a_tail_that_needs_its_file_keeps_it(tmp_path, tiny_teacher):
    sources = [
        build(
            tmp_path, f"part-{first}", tiny_teacher, problems(601, first, 2),
            targets=TargetFormat(tail="hidden"),
        )
        for first in (0, 2)
    ]  # fmt: skip
    merged = merge_caches(tmp_path / "m", sources)
    assert "tail.safetensors" in [file.path for file in merged.files]
    assert verify_cache(tmp_path / "m") == []
    with CacheReader(tmp_path / "m") as reader:
        require_equal_documents(reader, sources[1], "train", 2)


def test_the_fidelity_is_that_of_all_rows(tmp_path, parts):
    sources = [parts["first"], parts["second"]]
    merged = merge_caches(tmp_path / "m", sources)
    apart = [Manifest.read(path).fidelity[0] for path in sources]
    assert merged.fidelity[0].num_rows == sum(f.num_rows for f in apart)
    low, high = sorted(f.captured for f in apart)
    assert low <= merged.fidelity[0].captured <= high


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_length": 501}, "max_length: 501 there, 512 asked for"),
        ({"template": "docstring"}, "template"),
        ({"long_documents": "truncate"}, "long_documents"),
        ({"targets": TargetFormat(top_k=9)}, "targets.top_k: 9 there, 64 asked for"),
        ({"dtype": "bf16"}, "dtype"),
    ],
)
def test_sources_that_differ_in_more_than_the_dataset_are_refused_by_field(
    tmp_path, tiny_teacher, parts, change, field
):
    other = build(tmp_path, "other", tiny_teacher, problems(601, 5, 2), **change)
    with pytest.raises(CacheError, match=rf"other belongs to another(.|\n)*{field}(.|\n)*first"):
        merge_caches(tmp_path / "m", [parts["first"], other])
    assert not (tmp_path / "m").exists()


def test_another_teacher_is_refused(tmp_path, parts):
    save_teacher(tmp_path / "teacher", seed=1)
    lines = problems(601, 5, 2)
    other = build(tmp_path, "other", tmp_path / "teacher", lines)
    with pytest.raises(CacheError, match="teacher_sha256"):
        merge_caches(tmp_path / "m", [parts["first"], other])


def test_a_task_id_that_a_split_would_hold_twice_is_refused(tmp_path, tiny_teacher, parts):
    other = build(tmp_path, "other", tiny_teacher, problems(601, 4, 3))
    task_id = json.loads(problems(601, 4, 1)[0])["task_id"]
    message = f"'train' would hold task_id {task_id} twice: it is in .*first and in .*other"
    with pytest.raises(CacheError, match=message):
        merge_caches(tmp_path / "m", [parts["first"], other])
    with pytest.raises(CacheError, match="twice"):
        merge_caches(tmp_path / "m", [other, other])
    assert not (tmp_path / "m").exists()


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train/shard-00001.h5", "tokenizer/tokenizer.json"])
def test_a_damaged_source_is_named_and_leaves_no_manifest(tmp_path, copy, name):
    flip_byte(copy / name)
    with pytest.raises(CacheError, match=f"copy/{name} is damaged: its sha256 is not"):
        merge_caches(tmp_path / "m", [copy])
    (copy / name).unlink()
    with pytest.raises(CacheError, match=f"copy/{name} is (damaged: )?missing"):
        merge_caches(tmp_path / "m", [copy])
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_a_shard_that_the_manifest_does_not_vouch_for_is_refused(tmp_path, copy):
    manifest = Manifest.read(copy)
    replace(manifest, files=manifest.files[1:]).write(copy)
    with pytest.raises(CacheError, match="it has no checksum of train/shard-00000.h5"):
        merge_caches(tmp_path / "m", [copy])


def test_a_forged_content_hash_is_found(tmp_path, copy, monkeypatch):
    monkeypatch.setattr(cache.tools.source, "content_sha256", lambda arrays: "0" * 64)
    with pytest.raises(CacheError, match="its content hash does not fit its content"):
        merge_caches(tmp_path / "m", [copy])


def test_unfinished_sources_and_none_at_all_are_refused(tmp_path, copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(CacheError, match="not complete"):
        merge_caches(tmp_path / "m", [copy])
    with pytest.raises(CacheError, match="nothing to merge"):
        merge_caches(tmp_path / "m", [])


def test_what_stands_at_out_is_refused(tmp_path, parts, copy):
    with pytest.raises(CacheError, match="complete cache at .*copy already"):
        merge_caches(copy, [parts["first"]])
    (copy / "manifest.json").unlink()
    with pytest.raises(CacheError, match="not a merge of these sources in this order"):
        merge_caches(copy, [parts["first"]])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match="is not empty and holds no cache"):
        merge_caches(tmp_path / "notes", [parts["first"]])


def test_a_stopped_merge_given_again_ends_with_the_same_bytes(tmp_path, parts, monkeypatch):
    sources = [parts["first"], parts["second"]]
    whole = merge_caches(tmp_path / "whole", sources)
    written: list[Path] = []

    def copy_two(source, path, to):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(to)
        copy(source, path, to)

    copy = cache.tools.source.Source.copy
    monkeypatch.setattr(cache.tools.source.Source, "copy", copy_two)
    with pytest.raises(KeyboardInterrupt):
        merge_caches(tmp_path / "m", sources)
    with pytest.raises(CacheError, match="not complete"):
        CacheReader(tmp_path / "m")
    (tmp_path / "m" / "train" / "shard-00002.h5.host-1.partial").write_bytes(b"half")
    flip_byte(written[1])
    monkeypatch.setattr(cache.tools.source.Source, "copy", copy)
    merged = merge_caches(tmp_path / "m", sources)
    assert merged.files == whole.files and verify_cache(tmp_path / "m") == []
    assert not list((tmp_path / "m").rglob("*.partial"))


def test_a_merge_stopped_before_its_plan_can_be_given_again(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(cache.machine.lock, "LEASE_SECONDS", 0.5)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "writing.lock").touch()
    (tmp_path / "m" / "plan.json.host-1.partial").write_text("{")
    merge_caches(tmp_path / "m", [parts["first"]])
    assert verify_cache(tmp_path / "m") == []


def test_a_damaged_plan_at_out_is_named(tmp_path, parts):
    (tmp_path / "m").mkdir()
    write_sealed_json(tmp_path / "m" / "plan.json", {"identity": []})
    with pytest.raises(CacheError, match="identity is not a JSON object"):
        merge_caches(tmp_path / "m", [parts["first"]])


def test_the_command_merges_and_turns_refusals_into_a_sentence(tmp_path, parts):
    words = ("cache", "merge", tmp_path / "m", parts["first"], parts["second"])
    code, output = run(*words)
    assert code == 0, output
    assert f"Merged 2 caches into {tmp_path / 'm'}: 9 documents" in " ".join(output.split())
    code, output = run(*words)
    assert code == 1 and "give another OUT" in output and "Traceback" not in output


def test_caches_that_share_a_basis_merge_and_others_are_refused(tmp_path, tiny_teacher):
    train = problems(601, 0, 8)
    targets = TargetFormat(top_k=8, tail="lowrank", tail_rank=16, tail_bytes=12.0)
    first = build(tmp_path, "first", tiny_teacher, train[:4], targets=targets)
    alone = build(tmp_path, "alone", tiny_teacher, train[4:], targets=targets)
    with pytest.raises(CacheError, match="tail_sha256"):
        merge_caches(tmp_path / "merged", [first, alone])
    second = build(tmp_path, "second", tiny_teacher, train[4:], targets=targets, tail_from=first)
    merge_caches(tmp_path / "merged", [first, second])
    assert verify_cache(tmp_path / "merged") == []
    with CacheReader(tmp_path / "merged") as merged:
        require_equal_documents(merged, first, "train", 0)
        require_equal_documents(merged, second, "train", 4)


def test_caches_of_equal_weights_and_other_configurations_are_not_merged(
    tmp_path, tiny_teacher, parts
):
    shutil.copytree(tiny_teacher, tmp_path / "rope")
    settings = json.loads((tmp_path / "rope" / "config.json").read_text())
    settings["rope_parameters"] = {"rope_theta": 100.0, "rope_type": "default"}
    (tmp_path / "rope" / "config.json").write_text(json.dumps(settings))
    other = build(tmp_path, "other", tmp_path / "rope", problems(601, 5, 2))
    with pytest.raises(CacheError, match="configuration.rope_parameters"):
        merge_caches(tmp_path / "merged", [parts["first"], other])


def test_a_cache_that_does_not_say_its_teachers_configuration_merges_with_a_sentence(
    tmp_path, tiny_teacher, parts, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(cache.teacher.teacher, "configuration_of", lambda model: None)
        old = build(tmp_path, "old", tiny_teacher, problems(601, 5, 2))
    for name, sources in (("m", [old, parts["first"]]), ("n", [parts["first"], old])):
        with pytest.warns(CacheWarning, match="only its weights are known to be the same"):
            merge_caches(tmp_path / name, sources)
        assert Manifest.read(tmp_path / name).identity.configuration is None
        assert verify_cache(tmp_path / name) == []


def test_a_basis_is_taken_only_from_a_lowrank_cache_of_this_teacher(tmp_path, tiny_teacher, parts):
    with pytest.raises(CacheError, match="that cache has no lowrank tail but 'mass'"):
        build(
            tmp_path, "other", tiny_teacher, problems(601, 0, 2),
            targets=TargetFormat(top_k=8), tail_from=parts["first"],
        )  # fmt: skip


def corpus_config(folder: Path, name: str, teacher: Path, **options) -> BuildConfig:
    source = folder / f"{options.pop('source', 'texts')}.jsonl"
    texts = [json.loads(line)["code"] for line in problems(601, 0, 9)]
    source.write_text("\n".join(json.dumps({"content": text}) for text in texts))
    limit = options.pop("limit", None)
    return BuildConfig(
        out=folder / name, teacher=str(teacher), splits=("train",), max_length=32, limit=limit,
        corpus=Corpus(sources=(str(source),), text_field="content", **options),
        shard_tokens=200, targets=TargetFormat(top_k=64, tail="mass"),
    )  # fmt: skip


def test_corpora_read_in_parts_are_joined_and_numbered_anew(tmp_path, tiny_teacher):
    parts = [
        corpus_config(tmp_path, "a", tiny_teacher, limit=5),
        corpus_config(tmp_path, "b", tiny_teacher, skip=5),
    ]
    for config in parts:
        build_cache(config)
    merged = merge_caches(tmp_path / "both", [config.out for config in parts])
    assert verify_cache(tmp_path / "both") == []
    assert [text["end"] for text in merged.created["texts"]] == [5, 9]
    with CacheReader(tmp_path / "both") as both:
        count = both.num_documents("train")
        assert both.read("train", range(count)).task_ids.tolist() == list(range(count))
        first = 0
        for config in parts:
            with CacheReader(config.out) as part:
                number = part.num_documents("train")
                for name in ("topk_ids", "topk_logprobs", "gold_logprob"):
                    np.testing.assert_array_equal(
                        both.read_rows("train", range(first, first + number), name),
                        part.read_rows("train", range(number), name),
                    )
            first += number
    for path in (tmp_path / "a" / "train").glob("*.h5"):  # those that keep their numbers
        assert path.read_bytes() == (tmp_path / "both" / "train" / path.name).read_bytes()


def test_texts_that_two_corpora_hold_are_refused(tmp_path, tiny_teacher):
    first, other, copy = (
        corpus_config(tmp_path, "a", tiny_teacher, limit=5),
        corpus_config(tmp_path, "b", tiny_teacher, skip=4, limit=2),
        corpus_config(tmp_path, "c", tiny_teacher, limit=5, source="copy"),
    )
    for config in (first, other, copy):
        build_cache(config)
    with pytest.raises(CacheError, match="a holds texts 0 to 5 of train, and .*b holds some"):
        merge_caches(tmp_path / "both", [first.out, other.out])
    with pytest.raises(CacheError, match="a holds the texts of train, and .*c holds"):
        merge_caches(tmp_path / "both", [first.out, copy.out])
    assert not (tmp_path / "both").exists()
