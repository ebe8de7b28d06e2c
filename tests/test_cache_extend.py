"""More documents for a cache: the same rows as a build of all at once, and readers undisturbed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, save_teacher
from test_cli import run

import cache.extend
from cache.build import build_cache
from cache.config import BuildConfig, TargetFormat
from cache.corpus_config import Corpus
from cache.errors import CacheError
from cache.extend import EXTENSION_DIR, extend_cache
from cache.manifest import Manifest
from cache.reader import CacheReader
from cache.verify import verify_cache

ROOT = Path(__file__).parent.parent


def examples(first: int, count: int) -> list[str]:
    lines = EXAMPLES.read_text().splitlines()
    return [line for line in lines if json.loads(line)["task_id"] >= 601][first : first + count]


@pytest.fixture
def made(tmp_path, tiny_teacher):
    """Builds a cache of some of the train problems; returns its directory."""

    def make(name: str, first: int, count: int, **options) -> Path:
        dataset = tmp_path / f"{name}.jsonl"
        dataset.write_text("\n".join(examples(first, count)))
        given = {"targets": TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=8)}
        given |= {"splits": ("train",), "shard_tokens": 400, **options}
        build_cache(
            BuildConfig(
                out=tmp_path / name, teacher=str(tiny_teacher), dataset=str(dataset), **given
            )
        )
        return tmp_path / name

    return make


def more(tmp_path: Path, first: int, count: int) -> str:
    path = tmp_path / f"more-{first}.jsonl"
    path.write_text("\n".join(examples(first, count)))
    return str(path)


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (directory / "train").glob("*.h5")}


def test_old_shards_keep_their_bytes_and_new_documents_follow(tmp_path, made):
    directory = made("c", 0, 4)
    before, old = files_of(directory), Manifest.read(directory)
    added = extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3))
    assert added.num_documents == 3 and verify_cache(directory) == []
    after = files_of(directory)
    assert before.items() < after.items()
    with CacheReader(directory) as reader:
        ids = reader.read("train", range(7)).task_ids
    assert ids.tolist() == [json.loads(line)["task_id"] for line in examples(0, 7)]
    assert old.identity.shard_sha256 == added.manifest.identity.shard_sha256
    assert old.identity.sha256 != added.manifest.identity.sha256
    assert not (directory / EXTENSION_DIR).exists()


def test_a_split_of_the_caches_own_dataset_is_added(tmp_path, tiny_teacher):
    given = {"teacher": str(tiny_teacher), "dataset": str(EXAMPLES), "limit": 3}
    targets = TargetFormat(top_k=8, tail="mass")
    build_cache(BuildConfig(out=tmp_path / "c", splits=("train",), targets=targets, **given))
    both = BuildConfig(out=tmp_path / "both", targets=targets, **given)
    build_cache(both)
    manifest = extend_cache(tmp_path / "c", splits=("validation",), limit=3).manifest
    at_once = Manifest.read(both.out)
    assert manifest.identity.dataset_sha256 == at_once.identity.dataset_sha256
    assert manifest.plan.shards == at_once.plan.shards
    shards = {s.path for s in at_once.plan.shards}
    for record in at_once.files:
        assert record in manifest.files, record.path
    assert shards <= {record.path for record in manifest.files}


def test_an_open_reader_goes_on_with_what_it_knows(tmp_path, made):
    directory = made("c", 0, 4)
    with CacheReader(directory) as reader:
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3))
        assert reader.num_documents("train") == 4 and len(reader.document_lengths("train")) == 4
        assert len(reader.read("train", [0, 3]).task_ids) == 2


def test_a_call_killed_while_it_takes_shards_over_goes_on(tmp_path, made, monkeypatch):
    directory, dataset = made("c", 0, 4), more(tmp_path, 4, 3)
    whole = made("d", 0, 4)
    extend_cache(whole, splits=("train",), dataset=dataset)
    with monkeypatch.context() as patch:
        patch.setattr(cache.extend, "_finish", lambda *args, **given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extend_cache(directory, splits=("train",), dataset=dataset)
    assert verify_cache(directory) == []  # it is as it was
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 4
    extend_cache(directory, splits=("train",), dataset=dataset)
    assert Manifest.read(directory).files == Manifest.read(whole).files
    assert files_of(directory) == files_of(whole)


def test_a_call_killed_right_after_its_manifest_adds_nothing_twice(tmp_path, made, monkeypatch):
    directory, dataset = made("c", 0, 4), more(tmp_path, 4, 3)

    def die_at_the_end(path, **options):
        assert path != directory / EXTENSION_DIR, "killed"

    with monkeypatch.context() as patch:
        patch.setattr(cache.extend.shutil, "rmtree", die_at_the_end)
        with pytest.raises(AssertionError, match="killed"):
            extend_cache(directory, splits=("train",), dataset=dataset)
    extend_cache(directory, splits=("train",), dataset=dataset)
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 7
    assert verify_cache(directory) == [] and not (directory / EXTENSION_DIR).exists()


def test_sigkill_during_the_teachers_run_leaves_the_cache_and_goes_on(tmp_path, made):
    directory, dataset = made("c", 0, 2), more(tmp_path, 2, 7)
    words = ["cache", "extend", directory, "--split", "train", "--dataset", dataset]
    words += ["--shard-tokens", 200]
    process = subprocess.Popen(
        [sys.executable, "cli.py", *map(str, words)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and not list(directory.glob(f"{EXTENSION_DIR}/train/*.h5")):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 2
    code, output = run(*words)
    assert code == 0 and "Added 7 documents" in output, output
    assert verify_cache(directory) == []


def test_documents_that_are_there_are_refused(tmp_path, made):
    directory = made("c", 0, 4)
    with pytest.raises(CacheError, match="would hold task_id 604 twice"):
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 3, 3))
    with pytest.raises(CacheError, match="holds train of .* already"):
        extend_cache(made("e", 0, 2), splits=("train",))
    assert verify_cache(directory) == []


def test_another_teacher_is_refused_before_it_runs(tmp_path, made, monkeypatch):
    directory = made("c", 0, 4, targets=TargetFormat(top_k=8, tail="mass"))
    save_teacher(tmp_path / "other", seed=1)
    monkeypatch.setattr(cache.build, "_compute", None)
    with pytest.raises(CacheError, match="teacher_sha256"):
        extend_cache(
            directory, splits=("train",), dataset=more(tmp_path, 4, 3),
            teacher=str(tmp_path / "other"),
        )  # fmt: skip


def test_an_older_format_is_sent_to_merge(tmp_path):
    with pytest.raises(CacheError, match="cache merge NEW"):
        extend_cache(ROOT / "tests" / "formats" / "v2", splits=("test",))


def test_rows_are_those_of_a_build_of_all(tmp_path, made):
    targets = TargetFormat(top_k=8, tail="mass")
    directory = made("c", 0, 4, targets=targets, shard_tokens=1)
    whole = made("all", 0, 7, targets=targets, shard_tokens=1)
    extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3), shard_tokens=1)
    with CacheReader(directory) as one, CacheReader(whole) as other:
        for name in ("topk_ids", "topk_logprobs", "tail_log_mass"):
            mine, theirs = (r.read_rows("train", range(7), name) for r in (one, other))
            np.testing.assert_array_equal(mine, theirs)


def texts(path: Path, first: int, count: int) -> str:
    lines = [json.dumps({"content": json.loads(line)["code"]}) for line in examples(first, count)]
    path.write_text("\n".join(lines))
    return str(path)


def test_more_texts_are_added_to_a_corpus(tmp_path, tiny_teacher):
    def config(name: str, first: int, count: int) -> BuildConfig:
        source = texts(tmp_path / f"{name}.jsonl", first, count)
        return BuildConfig(
            out=tmp_path / name, teacher=str(tiny_teacher), splits=("train",), max_length=64,
            corpus=Corpus(sources=(source,), text_field="content"),
            targets=TargetFormat(top_k=8, tail="mass"),
        )  # fmt: skip

    build_cache(config("c", 0, 4))
    build_cache(config("more", 4, 4))
    words = ["cache", "extend", tmp_path / "c", "--split", "train", "--text-field", "content"]
    code, output = run(*words, "--dataset", tmp_path / "more.jsonl")
    assert code == 0, output
    with CacheReader(tmp_path / "c") as both, CacheReader(tmp_path / "more") as added:
        first = both.num_documents("train") - added.num_documents("train")
        one = both.read("train", range(first, both.num_documents("train")))
        other = added.read("train", range(added.num_documents("train")))
        assert both.read("train", range(first)).task_ids.tolist() == list(range(first))
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.task_ids, other.task_ids + first)
    assert verify_cache(tmp_path / "c") == []


def test_problems_and_texts_do_not_mix(tmp_path, made):
    directory = made("c", 0, 2)
    corpus = Corpus(sources=(texts(tmp_path / "t.jsonl", 0, 2),), text_field="content")
    with pytest.raises(CacheError, match="holds problems in the template 'instruction'"):
        extend_cache(directory, splits=("train",), corpus=corpus)


def test_the_command_wants_to_know_what_to_add(made):
    code, output = run("cache", "extend", made("c", 0, 2))
    assert code == 1 and "extended by what is named; give --split" in output
