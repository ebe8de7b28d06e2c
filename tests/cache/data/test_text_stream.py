"""Texts of files as they are written by others: kinds of strings, marks, what no file holds."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cache.data.text_stream
from cache.data.conversations import conversation_of
from cache.data.corpus import Corpus
from cache.data.text_format import require_unicode
from cache.data.text_stream import TextStream
from cache.data.tokenise import encode
from cache.errors import CacheError


def texts_of(*sources: Path, field: str = "content", streaming: bool = True) -> list[str]:
    corpus = Corpus(sources=tuple(map(str, sources)), text_field=field, streaming=streaming)
    batches = TextStream(corpus, "train").batches()
    return [text for batch in batches for text in batch.texts]


def parquet(path: Path, texts: list[str], kind: pa.DataType) -> Path:
    pq.write_table(pa.table({"content": pa.array(texts, kind)}), path)
    return path


@pytest.mark.parametrize("streaming", [True, False])
def test_sources_of_short_and_large_strings_join(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    large = parquet(tmp_path / "l.parquet", ["l1", "l2"], pa.large_string())
    short = parquet(tmp_path / "s.parquet", ["s1", "s2"], pa.string())
    lines = tmp_path / "j.jsonl"
    lines.write_text("".join(json.dumps({"content": f"j{i}"}) + "\n" for i in (1, 2)))
    for sources in ([large, short], [short, large], [large, lines]):
        found = texts_of(*sources, streaming=streaming)
        assert {text[0] for text in found} == {source.name[0] for source in sources}


def test_large_strings_go_on_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(cache.data.text_stream, "BATCH_TEXTS", 2)
    texts = [f"l{i}" for i in range(6)]
    path = parquet(tmp_path / "l.parquet", texts, pa.large_string())
    corpus = Corpus(sources=(str(path),), text_field="content", streaming=True)
    first, *_ = TextStream(corpus, "train").batches()
    rest = TextStream(corpus, "train", json.loads(json.dumps(first.position))).batches()
    assert [text for batch in (first, *rest) for text in batch.texts] == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    line = "one\u2028two\u0085three"
    content = {
        "a.jsonl": json.dumps({"text": line}, ensure_ascii=False),
        "a.csv": f"text\n{line}",
        "a.txt": line,
    }[name]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode() + b"\n")
    assert texts_of(tmp_path / name, field="text") == [line]


def test_what_stopped_the_loading_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}\n')
    with pytest.raises(CacheError, match="surrogate pair in string is invalid"):
        texts_of(tmp_path / "a.jsonl", field="text", streaming=False)


def test_half_a_character_is_refused_before_any_tokenizer_sees_it():
    with pytest.raises(CacheError, match=r"half a character \('.ud800'\) at place 2"):
        encode(None, "ab\ud800", parse_special=False)
    require_unicode("ab\U0001f600")


def test_messages_nested_too_deep_are_refused():
    with pytest.raises(CacheError, match="row 3: the messages are no list and no JSON"):
        conversation_of({"messages": "[" * 100_000}, 3, "row 3")
