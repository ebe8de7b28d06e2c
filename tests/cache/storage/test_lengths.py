"""The file of lengths, damaged in its header."""

import shutil

import pytest

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.storage.lengths import lengths_path


@pytest.mark.parametrize(
    ("place", "new"),
    [(12, b"("), (9, b"\xff"), (6, b"\x09"), (20, b"\n"), (0, b"\x80"), (10, b"[" * 60)],
)
def test_a_damaged_header_is_a_sentence(tmp_path, tiny_cache, place, new):
    copy = shutil.copytree(tiny_cache, tmp_path / "copy")
    path = copy / lengths_path("train", 24)
    content = bytearray(path.read_bytes())
    content[place : place + len(new)] = new
    path.write_bytes(content)
    with CacheReader(copy) as reader, pytest.raises(CacheError, match="-24.npy is damaged"):
        reader.document_lengths("train")


def test_a_header_that_asks_for_much_memory_is_refused(tmp_path, tiny_cache):
    copy = shutil.copytree(tiny_cache, tmp_path / "copy")
    path = copy / lengths_path("train", 24)
    short, long = b"(24,), }".ljust(20), b"(24000000000000,), }"
    content = path.read_bytes()
    assert short in content
    path.write_bytes(content.replace(short, long))
    with CacheReader(copy) as reader, pytest.raises(CacheError, match="-24.npy is damaged"):
        reader.document_lengths("train")
