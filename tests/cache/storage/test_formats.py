"""A cache of every format version: what today's code makes of it. See cache/FORMAT.md."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.storage.identity import FORMAT_VERSION, READABLE_VERSIONS
from cache.storage.manifest import Manifest
from cache.tools.merge import merge_caches
from cache.tools.verify import verify_cache
from tests.support.paths import ROOT

FORMATS = ROOT / "tests/formats"


def assert_reads_as_when_written(directory: Path, version: int) -> None:
    """Against what the code of that version read, saved beside its cache."""
    expected = np.load(FORMATS / f"v{version}-expected.npz", allow_pickle=False)
    with CacheReader(directory) as reader:
        documents = reader.read("train", [0, 2])
        lengths = reader.document_lengths("train")
    np.testing.assert_array_equal(documents.token_ids, expected["token_ids"])
    np.testing.assert_array_equal(documents.token_offsets, expected["token_offsets"])
    np.testing.assert_array_equal(np.diff(documents.token_offsets), lengths[[0, 2]])
    if version >= 4:
        np.testing.assert_array_equal(documents.marks, expected["marks"])
    assert documents.begins_text.sum() == 2 and not documents.isolated
    prompts = documents.prompt_lengths
    for i, own in enumerate(np.split(documents.by_assistant, documents.token_offsets[1:-1])):
        assert own.tolist() == [place >= prompts[i] for place in range(len(own))]
    dense = documents.targets.at(2.0).to_dense(documents.targets.vocab_size)[::16]
    np.testing.assert_allclose(dense.numpy(), expected["probabilities"], rtol=1e-5, atol=1e-8)


def test_there_is_a_cache_of_every_version():
    versions = range(1, FORMAT_VERSION + 1)
    assert sorted(p.name for p in FORMATS.iterdir() if p.is_dir()) == [f"v{v}" for v in versions]
    for version in READABLE_VERSIONS:
        assert Manifest.read(FORMATS / f"v{version}").identity.format_version == version


@pytest.mark.parametrize("version", READABLE_VERSIONS)
def test_a_readable_version_reads_as_when_it_was_written(version):
    assert verify_cache(FORMATS / f"v{version}") == []
    assert_reads_as_when_written(FORMATS / f"v{version}", version)


@pytest.mark.parametrize("version", [1, 2])
def test_an_unreadable_version_is_refused_by_name(version):
    words = f"format version {version}; this logitcache reads versions 3 and 4"
    with pytest.raises(CacheError, match=words):
        CacheReader(FORMATS / f"v{version}")


def test_a_merge_of_one_brings_a_cache_up_to_date(tmp_path):
    merge_caches(tmp_path / "new", [FORMATS / "v3"])
    assert Manifest.read(tmp_path / "new").identity.format_version == FORMAT_VERSION
    assert verify_cache(tmp_path / "new") == []
    assert_reads_as_when_written(tmp_path / "new", 3)


def test_a_shard_of_an_older_version_is_refused_in_a_newer_cache(tmp_path):
    shutil.copytree(FORMATS / f"v{FORMAT_VERSION}", tmp_path / "cache")
    path = tmp_path / "cache" / "train" / "shard-00000.h5"
    with path.open("rb") as file:
        before = file.read()
    other = (FORMATS / "v3" / "train" / "shard-00000.h5").read_bytes()
    assert other != before
    path.write_bytes(other)
    with pytest.raises(CacheError, match="the manifest promises|has format version 3, its cache"):
        CacheReader(tmp_path / "cache").read("train", [0])
