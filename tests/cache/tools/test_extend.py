"""More documents for a cache: the same rows as a build of all at once, and readers undisturbed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cache.building.local
import cache.tools.extend
from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import Corpus
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.storage.manifest import Manifest, Plan
from cache.targets.format import TargetFormat
from cache.tools.extend import EXTENSION_DIR, extend_cache
from cache.tools.verify import verify_cache
from tests.support.builds import FORK
from tests.support.command_line import run
from tests.support.paths import EXAMPLES, ROOT
from tests.support.tiny_teacher import save_teacher


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
        patch.setattr(cache.tools.extend, "_finish", lambda *args, **given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extend_cache(directory, splits=("train",), dataset=dataset)
    assert verify_cache(directory) == []  # it is as it was
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 4
    extend_cache(directory, splits=("train",), dataset=dataset)
    assert Manifest.read(directory).files == Manifest.read(whole).files
    assert files_of(directory) == files_of(whole)


class Killed(BaseException):
    """A process that ends here."""


def die(*_, **__):
    raise Killed


def shards_go_and_then_die(path, **_):
    for shard in Path(path).rglob("*.h5"):
        shard.unlink()
    raise Killed


@pytest.mark.parametrize(
    "removing", [None, die, shards_go_and_then_die], ids=["plan", "removing", "half removed"]
)
def test_a_call_killed_after_its_manifest_adds_nothing_twice(tmp_path, made, monkeypatch, removing):
    directory, dataset = made("c", 0, 4), more(tmp_path, 4, 3)
    write = Plan.write
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if removing:
            patch.setattr(cache.tools.extend, "shutil", SimpleNamespace(rmtree=removing))
        else:
            patch.setattr(
                Plan, "write", lambda plan, out: die() if out == directory else write(plan, out)
            )
        extend_cache(directory, splits=("train",), dataset=dataset)
    monkeypatch.setattr(cache.tools.extend, "build_cache", None)
    added = extend_cache(directory, splits=("train",), dataset=dataset)
    assert added.num_documents == 3
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 7
    assert verify_cache(directory) == [] and not (directory / EXTENSION_DIR).exists()


def test_another_extension_goes_on_after_one_that_was_killed_at_its_end(
    tmp_path, made, monkeypatch
):
    directory = made("c", 0, 4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(cache.tools.extend, "shutil", SimpleNamespace(rmtree=die))
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3))
    assert extend_cache(directory, splits=("train",), dataset=more(tmp_path, 7, 2)).num_rows > 0
    with CacheReader(directory) as reader:
        assert reader.num_documents("train") == 9
    assert verify_cache(directory) == []


def test_a_refused_call_leaves_nothing_behind(tmp_path, made, monkeypatch):
    directory = made("c", 0, 4)
    for words in (
        {"dataset": str(tmp_path / "nothing.jsonl")},
        {"dataset": more(tmp_path, 3, 3)},
        {"dataset": more(tmp_path, 4, 3), "teacher": str(tmp_path / "nobody")},
    ):
        with pytest.raises(CacheError):
            extend_cache(directory, splits=("train",), **words)
        assert not (directory / EXTENSION_DIR).exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):  # nothing was computed
        patch.setattr(cache.building.local, "_compute", die)
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3))
    assert (directory / EXTENSION_DIR / "plan.json").is_file()
    extend_cache(directory, splits=("train",), dataset=more(tmp_path, 7, 2))
    assert verify_cache(directory) == []


def test_a_folder_of_that_name_that_no_call_made_is_left_alone(tmp_path, made):
    directory = made("c", 0, 4)
    (directory / EXTENSION_DIR).mkdir()
    (directory / EXTENSION_DIR / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match="holds something else"):
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 4, 3))
    assert (directory / EXTENSION_DIR / "notes.txt").read_text() == "mine"


def test_an_unfinished_extension_of_other_documents_is_named_with_both_ways_out(
    tmp_path, made, monkeypatch
):
    directory, begun = made("c", 0, 4), more(tmp_path, 4, 3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(cache.building.local, "_finish", die)
        extend_cache(directory, splits=("train",), dataset=begun)
    with pytest.raises(CacheError, match="Give its command again to finish it, or remove that"):
        extend_cache(directory, splits=("train",), dataset=more(tmp_path, 7, 2))
    assert extend_cache(directory, splits=("train",), dataset=begun).num_documents == 3
    assert verify_cache(directory) == []


def test_sigkill_during_the_teachers_run_leaves_the_cache_and_goes_on(tmp_path, made):
    directory, dataset = made("c", 0, 2), more(tmp_path, 2, 7)
    words = ["cache", "extend", directory, "--split", "train", "--dataset", dataset]
    words += ["--shard-tokens", 200]
    options = {"splits": ("train",), "dataset": str(dataset), "shard_tokens": 200}
    process = FORK.Process(target=extend_cache, args=(directory,), kwargs=options)
    process.start()
    while process.is_alive() and not list(directory.glob(f"{EXTENSION_DIR}/train/*.h5")):
        pass
    process.kill()
    process.join()
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
    monkeypatch.setattr(cache.building.local, "_compute", None)
    with pytest.raises(CacheError, match="teacher_sha256"):
        extend_cache(
            directory, splits=("train",), dataset=more(tmp_path, 4, 3),
            teacher=str(tmp_path / "other"),
        )  # fmt: skip


def test_the_teacher_under_another_configuration_is_refused(tmp_path, made, tiny_teacher):
    directory = made("c", 0, 4, targets=TargetFormat(top_k=8, tail="mass"))
    shutil.copytree(tiny_teacher, tmp_path / "bent")
    settings = json.loads((tmp_path / "bent" / "config.json").read_text())
    (tmp_path / "bent" / "config.json").write_text(json.dumps(settings | {"norm_epsilon": 0.5}))
    given = {"dataset": more(tmp_path, 4, 3), "teacher": str(tmp_path / "bent")}
    with pytest.raises(
        CacheError, match=r"configuration.norm_epsilon: (.|\n)*name its own teacher"
    ):
        extend_cache(directory, splits=("train",), **given)


def test_an_older_format_is_sent_to_merge(tmp_path):
    with pytest.raises(CacheError, match="cache merge NEW"):
        extend_cache(ROOT / "tests" / "formats" / "v3", splits=("test",))


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


@pytest.fixture
def corpus(tmp_path, tiny_teacher):
    """Builds a cache of some texts of one file of ten; returns its directory."""
    source = texts(tmp_path / "texts.jsonl", 0, 10)

    def make(name: str, *, skip: int = 0, limit: int | None = None, **options) -> Path:
        options = {"text_field": "content", **options}
        build_cache(
            BuildConfig(
                out=tmp_path / name, teacher=str(tiny_teacher), splits=("train",), max_length=32,
                corpus=Corpus(sources=(source,), skip=skip, **options),
                targets=TargetFormat(top_k=8, tail="mass"), limit=limit, shard_tokens=200,
            )
        )  # fmt: skip
        return tmp_path / name

    return make


def tokens_of(directory: Path, split: str = "train") -> list[int]:
    with CacheReader(directory) as reader:
        found = reader.read(split, range(reader.num_documents(split)))
        assert found.task_ids.tolist() == list(range(reader.num_documents(split)))
    return found.token_ids.tolist()


def extend_texts(directory: Path, tmp_path: Path, *words) -> tuple[int, str]:
    options = ["--split", "train", "--text-field", "content", "--dataset", tmp_path / "texts.jsonl"]
    code, output = run("cache", "extend", directory, *options, *words)
    return code, " ".join(output.split())


def test_a_corpus_goes_on_after_its_last_text_as_often_as_one_likes(tmp_path, corpus):
    directory = corpus("c", limit=3, validation_every=2)
    before = files_of(directory)
    expected = tokens_of(directory)
    for skip, limit in ((3, 2), (5, 4)):
        more = ("--validation-every", 2, "--skip", skip, "--limit", limit)
        code, output = extend_texts(directory, tmp_path, *more)
        assert code == 0, output
        part = corpus(f"part-{skip}", skip=skip, limit=limit, validation_every=2)
        expected += tokens_of(part)
    assert tokens_of(directory) == expected and before.items() <= files_of(directory).items()
    assert tokens_of(directory, "validation") and verify_cache(directory) == []
    code, output = run("cache", "inspect", directory)
    words = "texts 0 to 3 of train, texts 3 to 5 of train, texts 5 to 9 of train"
    assert words in " ".join(output.split()), output


def test_texts_that_are_there_are_refused_before_the_teacher_runs(tmp_path, corpus, monkeypatch):
    directory = corpus("c", skip=2, max_tokens=300)
    end = Manifest.read(directory).created["texts"][0]["end"]
    monkeypatch.setattr(cache.tools.extend, "build_cache", None)
    for words in ((), ("--skip", end - 1), ("--limit", 3)):
        code, output = extend_texts(directory, tmp_path, *words)
        assert code == 1 and f"holds texts 2 to {end} of train of this corpus already" in output
        assert f"give --skip {end}" in output
    monkeypatch.undo()
    code, output = extend_texts(directory, tmp_path, "--limit", 2)  # those before
    assert code == 0, output


def test_problems_and_texts_do_not_mix(tmp_path, made):
    directory = made("c", 0, 2)
    corpus = Corpus(sources=(texts(tmp_path / "t.jsonl", 0, 2),), text_field="content")
    with pytest.raises(CacheError, match="holds problems in the template 'instruction'"):
        extend_cache(directory, splits=("train",), corpus=corpus)


def test_the_command_wants_to_know_what_to_add(made):
    code, output = run("cache", "extend", made("c", 0, 2))
    assert code == 1 and "extended by what is named; give --split" in output
