"""The tokenizer of a cache is read as its manifest records it, or not at all."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

import cli
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.tools.extend import extend_cache
from cache.tools.verify import verify_cache

END = "special_tokens_map.json"


@pytest.fixture
def copy(tmp_path, tiny_cache) -> Path:
    return Path(shutil.copytree(tiny_cache, tmp_path / "copy"))


def refused(copy: Path, words: str) -> None:
    with CacheReader(copy) as reader, pytest.raises(CacheError, match=words):
        AutoTokenizer.from_pretrained(reader.tokenizer_path)
    result = CliRunner().invoke(cli.main, ["cache", "inspect", str(copy)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", [END, "added_tokens.json", "chat_template.jinja", "deeper/x"])
def test_a_file_that_was_put_there_since_is_refused_and_named_by_verify(copy, name):
    path = copy / "tokenizer" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"eos_token": "a"}')
    assert [(f.path, "does not name it" in f.problem) for f in verify_cache(copy)] == [
        (f"tokenizer/{name}", True)
    ]
    refused(copy, f"tokenizer/{name} is not recorded.*\n.*Remove it")
    with pytest.raises(CacheError, match="is not recorded"):
        extend_cache(copy, splits=("test",))


def test_hidden_files_which_nobody_reads_are_passed_over(copy):
    (copy / "tokenizer" / ".DS_Store").write_text("x")
    assert verify_cache(copy) == []
    with CacheReader(copy) as reader:
        assert AutoTokenizer.from_pretrained(reader.tokenizer_path).eos_token


def test_a_swapped_word_and_a_missing_folder_are_refused(copy):
    path = copy / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"a"', '"Q"', 1))
    refused(copy, "tokenizer.json is not what was written.*other words")
    path.unlink()
    refused(copy, "tokenizer.json cannot be read: No such file")
    shutil.rmtree(copy / "tokenizer")
    refused(copy, "cannot be read: No such file")
