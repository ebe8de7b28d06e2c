"""A cache whose tokenizer has changed is good for nothing, whoever opens it."""

import json
import shutil

import pytest

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from distill.run.train import train
from distill.settings.config import TrainConfig
from tests.support.distill_fakes import small_recipe


@pytest.fixture
def copy(tmp_path, tiny_cache):
    return shutil.copytree(tiny_cache, tmp_path / "copy")


def swap_two_words(cache):
    path = cache / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    one, other = [word for word, token_id in words.items() if token_id in (300, 301)]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(content))


def test_a_changed_tokenizer_is_refused(copy):
    assert CacheReader(copy).tokenizer_path == copy / "tokenizer"
    swap_two_words(copy)
    with pytest.raises(CacheError, match="tokenizer.json is not what was written.*other words"):
        _ = CacheReader(copy).tokenizer_path


def test_a_lost_file_of_the_tokenizer_is_named(copy):
    (copy / "tokenizer/tokenizer_config.json").unlink()
    with pytest.raises(CacheError, match="tokenizer_config.json cannot be read: No such file"):
        _ = CacheReader(copy).tokenizer_path


def test_no_student_is_trained_on_words_that_were_exchanged(copy, tmp_path):
    swap_two_words(copy)
    config = TrainConfig(
        cache=copy, recipe=small_recipe(), out=tmp_path / "out", wandb="disabled"
    )  # fmt: skip
    with pytest.raises(CacheError, match="is not what was written"):
        train(config)
    assert not config.out.exists()
