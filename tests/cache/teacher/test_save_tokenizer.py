"""A tokenizer is written whole, and among nobody else's files."""

import errno
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import cache.teacher.save_tokenizer
from cache.errors import CacheError
from cache.teacher.save_tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_teacher):
    return AutoTokenizer.from_pretrained(tiny_teacher)


def test_what_is_written_reads_back_and_can_be_written_again(tmp_path, tokenizer):
    for _ in range(2):
        save_tokenizer(tokenizer, tmp_path / "t")
    assert AutoTokenizer.from_pretrained(tmp_path / "t").get_vocab() == tokenizer.get_vocab()


def test_a_folder_with_other_files_is_refused_as_it_is(tmp_path, tokenizer):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "vocab.json").write_text("mine")
    with pytest.raises(CacheError, match="vocab.json is no file of this cache's tokenizer"):
        save_tokenizer(tokenizer, tmp_path / "t")
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["vocab.json"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(
    tmp_path, tokenizer, monkeypatch
):
    def fill(source: Path, to: Path) -> None:
        to.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.teacher.save_tokenizer, "copyfile", fill)
    with pytest.raises(CacheError, match="no space left on its disk"):
        save_tokenizer(tokenizer, tmp_path / "t")
    assert not list((tmp_path / "t").iterdir())

    def refuse(folder):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(tokenizer, "save_pretrained", refuse)
    with pytest.raises(CacheError, match="tokenizer could not be written to .*No space left"):
        save_tokenizer(tokenizer, tmp_path / "t")
