"""Corpora: packed, streamed, mixed, spooled in flat memory, and taken up again after kill -9."""

import json
import os
import signal
import threading
import tracemalloc
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest
from click.testing import CliRunner

import cache.building.read_corpus
import cache.data.text_stream
import cli
from cache.building.config import BuildConfig
from cache.building.job import first_documents, read_job
from cache.building.local import build_as_worker, build_cache
from cache.building.read_corpus import spool_corpus
from cache.building.workers import Worker
from cache.data.corpus import Corpus
from cache.data.spool import Spool
from cache.data.text_stream import TextBatch, TextStream
from cache.errors import CacheError
from cache.machine.durable import read_sealed_json
from cache.reading.reader import CacheReader
from cache.storage.manifest import state_of
from cache.targets.format import TargetFormat
from cache.teacher.load import load_tokenizer
from cache.tools.extend import extend_cache
from cache.tools.recommend import try_formats
from cache.tools.verify import verify_cache
from cache.tools.verify_live import verify_live
from distill.run.logs import read_metrics
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe
from tests.support.builds import FORK, datasets_of

NUM_TEXTS = 300


def job_of(config, tokenizer):
    """The job of a directory as it is now."""
    return read_job(config, tokenizer, state_of(config.out))


def texts_of(name: str, num_texts: int = NUM_TEXTS) -> list[str]:
    """Programs of different lengths, none twice; every 50th text is empty."""
    texts = []
    for i in range(num_texts):
        program = f"# {name} {i}\n" + f"def f{i}(x):\n    return x + {i}\n" * (i % 7 + 1)
        texts.append("" if i % 50 == 49 else program)
    return texts


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps({"n": i, "content": t}) + "\n" for i, t in enumerate(texts)))
    return path


@pytest.fixture(autouse=True)
def _own_cache_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """The same texts as a .jsonl file, a .parquet file, a folder, and other texts."""
    folder = tmp_path_factory.mktemp("corpora")
    texts = texts_of("a")
    write_jsonl(folder / "b.jsonl", texts_of("b"))
    write_jsonl(folder / "folder/train-0.jsonl", texts[:120])
    write_jsonl(folder / "folder/train-1.jsonl", texts[120:])
    rows = datasets.Dataset.from_dict({"content": texts, "n": list(range(NUM_TEXTS))})
    rows.to_parquet(folder / "a.parquet")
    (folder / "lines.txt").write_text("one line\nand two\n")
    return {
        "jsonl": str(write_jsonl(folder / "a.jsonl", texts)),
        "parquet": str(folder / "a.parquet"),
        "folder": str(folder / "folder"),
        "other": str(folder / "b.jsonl"),
        "lines": str(folder / "lines.txt"),
    }


@pytest.fixture(scope="module")
def tokenizer(tiny_teacher):
    return load_tokenizer(str(tiny_teacher), None)


def config_of(out: Path, teacher: Path, *names: str, splits=("train",), corpus=None, **options):
    defaults = {
        "max_length": 32,
        "shard_tokens": 500,
        "batch_tokens": 512,
        "targets": TargetFormat(top_k=4, logprob_bits=16, tail="mass"),
    }
    given = {"text_field": "content", "streaming": True, **(corpus or {})}
    return BuildConfig(
        out=out, teacher=str(teacher), splits=splits, corpus=Corpus(sources=names, **given),
        **{**defaults, **options},
    )  # fmt: skip


def packed(tokenizer, texts: list[str]) -> list[int]:
    """The texts' tokens, each text closed by end-of-text: one text at a time."""
    ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts if text)
    return list(chain.from_iterable([*text_ids, tokenizer.eos_token_id] for text_ids in ids))


def tokens_of(documents) -> list[int]:
    return [int(token) for document in documents for token in document.token_ids]


@pytest.mark.parametrize("source", ["jsonl", "parquet", "folder"])
@pytest.mark.parametrize("streaming", [True, False])
def test_every_source_streamed_or_not_gives_the_texts_one_after_the_other(
    tmp_path, tiny_teacher, tokenizer, sources, source, streaming
):
    config = config_of(tmp_path, tiny_teacher, sources[source], corpus={"streaming": streaming})
    plan = job_of(config, tokenizer)
    documents = plan.documents["train"]
    expected = packed(tokenizer, texts_of("a"))
    assert tokens_of(documents) == expected
    assert {d.num_tokens for d in documents[:-1]} == {32}
    assert [d.task_id for d in documents] == list(range(len(documents)))
    assert {d.prompt_length for d in documents} == {1}
    assert plan.num_tokens == len(expected) and plan.num_rows == len(expected) - len(documents)
    assert (plan.longest, plan.largest_id) == (32, max(expected))
    per_shard = [tokens_of(plan.documents_of(shard)) for shard in plan.shards]
    assert list(chain.from_iterable(per_shard)) == expected
    assert all(
        len(ids) == shard.num_tokens for ids, shard in zip(per_shard, plan.shards, strict=True)
    )
    assert {len(ids) for ids in per_shard[:-1]} == {512}
    other = config_of(tmp_path / "o", tiny_teacher, sources["jsonl"], shard_tokens=3000)
    assert plan.dataset_sha256 == job_of(other, tokenizer).dataset_sha256


def test_a_file_is_streamed_over_http(tmp_path, tiny_teacher, tokenizer, sources):
    folder = Path(sources["jsonl"]).parent

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.parquet"
        plan = job_of(config_of(tmp_path, tiny_teacher, url), tokenizer)
        server.shutdown()
    assert tokens_of(plan.documents["train"]) == packed(tokenizer, texts_of("a"))


def test_a_text_file_is_a_text_a_line(tmp_path, tiny_teacher, tokenizer, sources):
    config = config_of(tmp_path, tiny_teacher, sources["lines"], corpus={"text_field": "text"})
    documents = job_of(config, tokenizer).documents["train"]
    assert tokens_of(documents) == packed(tokenizer, ["one line", "and two"])


@pytest.mark.parametrize("num_tokens", [1, 32, 33, 500, 513])
def test_a_stream_ends_at_its_tokens_and_no_document_has_one(
    tmp_path, tiny_teacher, tokenizer, sources, num_tokens
):
    most = {"max_tokens": num_tokens + 1}
    config = config_of(tmp_path, tiny_teacher, sources["jsonl"], corpus=most)
    documents = job_of(config, tokenizer).documents["train"]
    kept = num_tokens + 1 - (num_tokens % 32 == 0)
    assert tokens_of(documents) == packed(tokenizer, texts_of("a"))[:kept]
    assert min(d.num_tokens for d in documents) >= 2


def test_every_nth_text_is_held_out_and_a_limit_counts_texts(
    tmp_path, tiny_teacher, tokenizer, sources
):
    config = config_of(
        tmp_path, tiny_teacher, sources["jsonl"], limit=97, corpus={"validation_every": 10}
    )
    plan = job_of(config, tokenizer)
    texts = texts_of("a")[:97]
    train_texts = [text for i, text in enumerate(texts) if i % 10 != 9]
    assert tokens_of(plan.documents["train"]) == packed(tokenizer, train_texts)
    assert tokens_of(plan.documents["validation"]) == packed(tokenizer, texts[9::10])


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("names", [("jsonl",), ("parquet",), ("jsonl", "other")])
def test_texts_passed_over_are_those_that_a_shorter_stream_read(sources, names, streaming):
    given = {"sources": tuple(sources[name] for name in names), "text_field": "content"}
    corpus = Corpus(streaming=streaming, **given)
    whole = list(chain.from_iterable(b.texts for b in TextStream(corpus, "train").batches()))
    rest = TextStream(replace(corpus, skip=70), "train")
    assert list(chain.from_iterable(batch.texts for batch in rest.batches())) == whole[70:]


def test_a_limit_and_what_is_held_out_count_from_the_first_text_of_all(
    tmp_path, tiny_teacher, tokenizer, sources
):
    later = {"skip": 15, "validation_every": 10}
    config = config_of(tmp_path, tiny_teacher, sources["jsonl"], limit=20, corpus=later)
    plan = job_of(config, tokenizer)
    texts = texts_of("a")[15:35]
    held_out = [texts[4], texts[14]]
    assert tokens_of(plan.documents["validation"]) == packed(tokenizer, held_out)
    train_texts = [text for text in texts if text not in held_out]
    assert tokens_of(plan.documents["train"]) == packed(tokenizer, train_texts)


def test_several_splits_are_streams_of_their_own(tmp_path, tiny_teacher, tokenizer):
    folder = tmp_path / "both"
    write_jsonl(folder / "train.jsonl", texts_of("a", 20))
    write_jsonl(folder / "validation.jsonl", texts_of("b", 9))
    plan = job_of(
        config_of(tmp_path / "c", tiny_teacher, str(folder), splits=("train", "validation")),
        tokenizer,
    )
    assert tokens_of(plan.documents["train"]) == packed(tokenizer, texts_of("a", 20))
    assert tokens_of(plan.documents["validation"]) == packed(tokenizer, texts_of("b", 9))


def drawn(sources, weights, streaming=True) -> str:
    corpus = Corpus(
        sources=(sources["jsonl"], sources["other"]), weights=weights, text_field="content",
        streaming=streaming,
    )  # fmt: skip
    texts = chain.from_iterable(batch.texts for batch in TextStream(corpus, "train").batches())
    return "".join(text[2] for text in texts if text)


def test_sources_take_turns_by_their_weights_in_one_order(sources):
    order = drawn(sources, (7.0, 3.0))
    assert order.count("a") / len(order) == pytest.approx(0.7, abs=0.06)
    assert order == drawn(sources, (0.7, 0.3)) == drawn(sources, (0.7, 0.3), streaming=False)
    assert order.count("a") == pytest.approx(NUM_TEXTS * 0.98, abs=7)  # the first to end
    even = drawn(sources, ())
    assert even.count("a") / len(even) == pytest.approx(0.5, abs=0.06)


def build_and_die(config, num_saves):
    """For a fork: build, and be killed right after the spool was saved so many times."""
    save, left = Spool.save, [num_saves]

    def save_and_die(self, position):
        save(self, position)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Spool.save = save_and_die
    cache.data.text_stream.BATCH_TEXTS = 16
    build_cache(config)


@pytest.mark.parametrize("mixed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_spool_goes_on_in_mid_stream_to_the_same_bytes(
    tmp_path, tiny_teacher, sources, mixed, monkeypatch
):
    names = [sources["jsonl"], sources["other"]] if mixed else [sources["jsonl"]]
    config = config_of(tmp_path / "killed", tiny_teacher, *names, corpus={"validation_every": 7})
    process = FORK.Process(target=build_and_die, args=(config, 9))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    state = read_sealed_json(tmp_path / "killed/corpus/state.json")
    num_before = state["position"]["num_texts"]
    assert num_before >= 100 and not state["complete"]
    assert not (tmp_path / "killed/plan.json").exists()

    seen = count_texts(monkeypatch)
    build_cache(config)
    num_after = len(seen)
    seen.clear()
    whole = config_of(tmp_path / "whole", tiny_teacher, *names, corpus={"validation_every": 7})
    build_cache(whole)
    assert num_after == len(seen) - num_before
    found, expected = (CacheReader(tmp_path / name) for name in ("killed", "whole"))
    assert found.identity == expected.identity
    assert found.manifest.plan == expected.manifest.plan
    assert datasets_of(tmp_path / "killed") == datasets_of(tmp_path / "whole")
    assert not (tmp_path / "killed/corpus").exists()


@pytest.mark.parametrize(("saves", "skip"), [(1, 0), (6, 0), (6, 3), (12, 0), (12, 3), (17, 0)])
def test_two_streams_go_on_wherever_they_were_stopped(
    tmp_path, tiny_teacher, tokenizer, saves, skip, monkeypatch
):
    monkeypatch.setattr(cache.data.text_stream, "BATCH_TEXTS", 4)
    write_jsonl(tmp_path / "both/train.jsonl", texts_of("a", 150))
    write_jsonl(tmp_path / "both/test.jsonl", texts_of("b", 150))
    config = config_of(
        tmp_path / "c", tiny_teacher, str(tmp_path / "both"), splits=("train", "test"),
        corpus={"max_tokens": 3000, "skip": skip},
    )  # fmt: skip
    save, left = Spool.save, [saves]

    def save_and_stop(self, position):
        save(self, position)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Spool, "save", save_and_stop)
        job_of(config, tokenizer)
    documents = job_of(config, tokenizer).documents
    assert tokens_of(documents["train"]) == packed(tokenizer, texts_of("a", 150)[skip:])[:3000]
    assert tokens_of(documents["test"]) == packed(tokenizer, texts_of("b", 150)[skip:])[:3000]


def test_workers_share_one_reading_of_the_corpus(tmp_path, tiny_teacher, sources, monkeypatch):
    alone, shared = (config_of(tmp_path / n, tiny_teacher, sources["jsonl"]) for n in "as")
    build_cache(alone)
    seen = count_texts(monkeypatch)
    first = build_as_worker(shared, Worker(rank=1, count=2))
    assert first.summary is None and (tmp_path / "s/corpus").exists()
    assert build_as_worker(shared, Worker(rank=0, count=2)).summary is not None
    assert len(seen) == NUM_TEXTS and not (tmp_path / "s/corpus").exists()
    assert datasets_of(tmp_path / "a") == datasets_of(tmp_path / "s")


def count_texts(monkeypatch) -> list[str]:
    """The texts that streams hand out from now on."""
    seen: list[str] = []

    class Counted(TextStream):
        def batches(self):
            for batch in super().batches():
                seen.extend(batch.texts)
                yield batch

    monkeypatch.setattr(cache.building.read_corpus, "TextStream", Counted)
    return seen


def test_a_finished_corpus_cache_is_not_streamed_again(
    tmp_path, tiny_teacher, sources, monkeypatch
):
    config = config_of(tmp_path / "c", tiny_teacher, sources["jsonl"], limit=40)
    assert not build_cache(config).already_complete
    monkeypatch.setattr(cache.building.read_corpus, "TextStream", None)
    assert build_cache(config).already_complete
    for change, message in (
        ({"limit": 41}, r"there: .*first 40 texts.*\n.*asked for: .*first 41 texts"),
        ({"corpus": {"validation_every": 5}}, "asked for: .*every 5th text for validation"),
        ({"max_length": 16}, "max_length: 32 there, 16 asked for"),
    ):
        with pytest.raises(CacheError, match=message):
            build_cache(config_of(tmp_path / "c", tiny_teacher, sources["jsonl"],
                                  **{"limit": 40, **change}))  # fmt: skip
    (tmp_path / "c/manifest.json").unlink()  # unfinished: its plan is looked at before any text
    with pytest.raises(CacheError, match="belongs to another cache:\n  there: .*a.jsonl"):
        build_cache(config_of(tmp_path / "c", tiny_teacher, sources["other"], limit=40))


def test_an_unfinished_spool_refuses_other_options_by_name(
    tmp_path, tiny_teacher, tokenizer, sources
):
    job_of(config_of(tmp_path, tiny_teacher, sources["jsonl"], limit=40), tokenizer)
    for change, message in (
        ({"limit": 41}, "dataset: '.*40 texts' there, '.*41 texts' asked for"),
        ({"corpus": {"streaming": False}}, "streaming: True there, False asked for"),
        ({"shard_tokens": 600}, "shard_tokens: 500 there, 600 asked for"),
    ):
        with pytest.raises(CacheError, match=message):
            job_of(config_of(tmp_path, tiny_teacher, sources["jsonl"],
                                 **{"limit": 40, **change}), tokenizer)  # fmt: skip
    (tmp_path / "corpus/train/shard-00000.npy").write_bytes(b"cut short")
    plan = job_of(config_of(tmp_path, tiny_teacher, sources["jsonl"], limit=40), tokenizer)
    with pytest.raises(CacheError, match="shard-00000.npy cannot be read.*\nDelete .*corpus"):
        plan.documents_of(plan.shards[0])


def test_mistakes_about_sources_become_sentences(tmp_path, tiny_teacher, tokenizer, sources):
    for name, options, message in (
        ("jsonl", {"corpus": {"text_field": "code"}}, "has no field 'code'; it has n, content"),
        ("parquet", {"corpus": {"text_field": "n"}}, "'n' holds int, not text"),
        ("jsonl", {"splits": ("test",)}, "split 'test'. could not be loaded.*\n.*file is train"),
        ("nobody/nothing", {}, "nobody/nothing .* could not be loaded"),
        ("nowhere.jsonl", {}, "There is no file nowhere.jsonl"),
        ("jsonl", {"limit": 4, "corpus": {"validation_every": 9}}, "no text .* 'validation'"),
    ):
        config = config_of(tmp_path / message[:9], tiny_teacher, sources.get(name, name), **options)
        with pytest.raises(CacheError, match=message):
            job_of(config, tokenizer)


def test_a_stream_that_breaks_goes_on_once_it_is_mended(
    tmp_path, tiny_teacher, tokenizer, sources, monkeypatch
):
    monkeypatch.setattr(cache.data.text_stream, "BATCH_TEXTS", 16)
    breaks = [True]

    def rows():
        for i, text in enumerate(texts_of("a")):
            if i == 200 and breaks:
                raise ConnectionResetError("the line is dead")
            yield {"content": text}

    features = datasets.Features({"content": datasets.Value("string")})
    source = datasets.IterableDataset.from_generator(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **options: source)
    config = config_of(tmp_path / "c", tiny_teacher, "far/away")
    with pytest.raises(
        CacheError, match="ConnectionResetError: the line is dead\nWhat was read is"
    ):
        job_of(config, tokenizer)
    breaks.clear()
    seen = count_texts(monkeypatch)
    documents = job_of(config, tokenizer).documents["train"]
    assert tokens_of(documents) == packed(tokenizer, texts_of("a"))
    assert len(seen) <= NUM_TEXTS - 160


@pytest.mark.parametrize(
    ("options", "splits", "message"),
    [
        ({"sources": ("a", "a")}, ("train",), "name each part once"),
        ({"weights": (1.0, 2.0)}, ("train",), "1 datasets and 2 weights"),
        ({"weights": (0.0,)}, ("train",), "each must be above 0"),
        ({"names": ("x", "y")}, ("train",), "2 of --dataset-config"),
        ({"data_dirs": ("x", "y")}, ("train",), "2 of --data-dir"),
        ({"max_tokens": 1}, ("train",), "max_tokens is 1"),
        ({"skip": -1}, ("train",), "skip is -1"),
        ({"validation_every": 1}, ("train",), "validation_every is 1"),
        ({"validation_every": 5}, ("train", "validation"), "holds texts out of one split"),
        ({}, ("../up",), "cannot name a folder"),
        ({}, ("lengths",), "cannot name a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, splits, message):
    with pytest.raises(CacheError, match=message):
        corpus = Corpus(**{"sources": ("a",), "text_field": "content", **options})
        BuildConfig(out=tmp_path, corpus=corpus, splits=splits)


def test_the_template_of_corpora_needs_one(tmp_path):
    with pytest.raises(CacheError, match="The template 'text' is that of a corpus"):
        BuildConfig(out=tmp_path, template="text")


def run(*words) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--streaming",), "--streaming: only a corpus"),
        (("--skip", "5"), "--skip: only a corpus"),
        (("--weight", "1"), "--weight: only a corpus"),
        (("--split", "nowhere"), "There is no split 'nowhere'; MBPP has"),
        (("--text-field", "content"), "but no dataset"),
        (("--text-field", "content", "--dataset", "a", "--template", "docstring"),
         "leave out --template"),
        (("--text-field", "content", "--dataset", "a", "--dry-run"), "would read the whole"),
    ],
)  # fmt: skip
def test_options_of_the_command_that_do_not_fit_are_refused(words, message):
    code, output = run("cache-teacher", "--out", "x", *words)
    assert code == 1 and message in " ".join(output.split())


def test_a_dry_run_counts_the_first_texts_and_leaves_nothing(tmp_path, tiny_teacher, sources):
    code, output = run(
        "cache-teacher", "--teacher", tiny_teacher, "--out", tmp_path / "c", "--dataset",
        sources["jsonl"], "--text-field", "content", "--max-tokens", 1000, "--max-length", 32,
        "--dry-run",
    )  # fmt: skip
    assert code == 0, output
    assert "1,000" in output and "field content, first 1000 tokens" in " ".join(output.split())
    assert not (tmp_path / "c").exists()


def test_formats_are_tried_on_the_first_documents_of_a_corpus(
    tmp_path, tiny_teacher, tokenizer, sources, monkeypatch
):
    config = config_of(tmp_path / "c", tiny_teacher, sources["jsonl"])
    seen = count_texts(monkeypatch)
    with first_documents(config, tokenizer, 200) as plan:
        assert tokens_of(plan.documents["train"]) == packed(tokenizer, texts_of("a"))[:200]
    settings = try_formats(config, num_rows=256)
    assert settings[0].num_rows == pytest.approx(320, abs=20)
    assert not (tmp_path / "c").exists() and len(seen) <= 2 * NUM_TEXTS


def test_memory_does_not_grow_with_the_stream(tmp_path, tiny_teacher, tokenizer, monkeypatch):
    def endless(num_batches):
        class Endless:
            def __init__(self, *arguments):
                pass

            def batches(self):
                for number in range(num_batches):
                    text = f"def f{number}(x):\n    return x + {number}\n"
                    yield TextBatch(texts=[text] * 64, position={"number": number})

        return Endless

    def peak(num_batches: int) -> int:
        monkeypatch.setattr(cache.building.read_corpus, "TextStream", endless(num_batches))
        config = config_of(
            tmp_path / str(num_batches), tiny_teacher, "endless", corpus={"validation_every": 9}
        )
        tracemalloc.start()
        spool = spool_corpus(config, tokenizer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spool.splits["train"].num_tokens > 800 * num_batches
        return peak

    peak(5)  # what is imported and cached the first time
    assert peak(200) < 1.5 * peak(10)


def test_a_corpus_is_cached_verified_and_trained_on(tmp_path, tiny_teacher, tokenizer, sources):
    config = config_of(
        tmp_path / "c", tiny_teacher, sources["folder"], corpus={"validation_every": 20},
        targets=TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0),
    )  # fmt: skip
    build_cache(config)
    assert verify_cache(tmp_path / "c") == []
    assert not verify_live(tmp_path / "c", num_documents=3, seed=0).faults
    with pytest.raises(CacheError, match="Name the texts to add with --dataset and --text-field"):
        extend_cache(tmp_path / "c", splits=("test",))
    with CacheReader(tmp_path / "c") as reader:
        everything = range(reader.num_documents("train"))
        held_out = [text for i, text in enumerate(texts_of("a")) if i % 20 != 19]
        assert reader.read("train", everything).token_ids.tolist() == packed(tokenizer, held_out)
        assert reader.identity.template == "text" and reader.identity.long_documents == "pack"
    recipe = Recipe(
        name="tiny", student="1x32x2", temperature=2.0, alpha=0.7, accumulate=16, epochs=1
    )
    result = train(
        TrainConfig(cache=tmp_path / "c", recipe=recipe, out=tmp_path / "run", wandb="disabled")
    )
    assert np.isfinite(result.losses["train_loss"]) and np.isfinite(result.losses["val_loss"])
    sample = read_metrics(tmp_path / "run/samples.jsonl")[0]  # half of the first text held out
    assert sample["prompt"] and texts_of("a")[19].startswith(sample["prompt"])
