"""Push and pull against a real S3 server on loopback, with a line that is cut in the middle."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from cache.errors import CacheError, CacheWarning
from cache.reading.reader import CacheReader
from cache.remote import errors as remote_errors
from cache.remote.errors import RemoteUnreachable
from cache.remote.local_copy import local_cache, local_folder
from cache.remote.pull import pull
from cache.remote.push import JOURNAL_NAME, push
from cache.remote.schemes import open_remote
from cache.storage.manifest import MANIFEST_NAME, Manifest
from cache.tools.verify import verify_cache
from tests.support.distill_fakes import small_recipe
from tests.support.paths import ROOT
from tests.support.remote_server import BUCKET, CARD, Line, files, s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server() as port:
        yield port


@pytest.fixture
def line(server, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    line = Line(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(remote_errors, "WAITS", (0.01,))
    s3fs.S3FileSystem.clear_instance_cache()
    yield line
    line.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def url(line, request):
    return f"s3://{BUCKET}/{request.node.name[:60]}"


def test_a_push_and_a_pull_give_identical_bytes_and_a_second_one_moves_nothing(
    tiny_cache, url, line, tmp_path
):
    manifest = Manifest.read(tiny_cache)
    done = push(tiny_cache, url, card=CARD)
    assert (done.num_files, done.num_bytes) == (len(manifest.files), manifest.num_bytes)
    assert JOURNAL_NAME not in open_remote(url).sizes()
    pulled = pull(url, tmp_path / "c")
    assert pulled.num_bytes == manifest.num_bytes
    assert files(tmp_path / "c") == files(tiny_cache) | {"README.md": CARD.encode()}
    assert verify_cache(tmp_path / "c") == []

    before = line.num_bytes
    assert push(tiny_cache, url, card=CARD).num_files == 0
    assert pull(url, tmp_path / "c").num_bytes == 0
    assert line.num_bytes - before < manifest.num_bytes / 2  # two manifests and listings alone


def test_a_shard_that_changed_on_the_remote_or_here_moves_alone(tiny_cache, url, tmp_path):
    push(tiny_cache, url, card=CARD)
    pull(url, tmp_path / "c")
    shard = tmp_path / "c" / "train" / "shard-00001.h5"
    size = shard.stat().st_size
    shard.write_bytes(b"\0" * size)  # the same size: its hash tells
    done = pull(url, tmp_path / "c")
    assert (done.num_files, done.num_bytes) == (1, size)
    remote = open_remote(url)
    remote.write({"train/shard-00001.h5": b"short"})
    done = push(tiny_cache, url, card=CARD)
    assert (done.num_files, done.num_bytes) == (1, size)
    assert pull(url, tmp_path / "c").num_files == 0


def test_a_push_cut_in_the_middle_leaves_no_manifest_and_goes_on(tiny_cache, url, line, tmp_path):
    manifest = Manifest.read(tiny_cache)
    line.cut_after(manifest.num_bytes // 2)
    with pytest.raises(RemoteUnreachable, match="Give the same command again"):
        push(tiny_cache, url, card=CARD, jobs=1)
    line.mend()
    there = open_remote(url).sizes()
    assert MANIFEST_NAME not in there and JOURNAL_NAME in there
    with pytest.raises(CacheError, match="has to give the push command again"):
        pull(url, tmp_path / "c")
    done = push(tiny_cache, url, card=CARD)
    assert done.num_kept > 0 and 0 < done.num_bytes < manifest.num_bytes
    pull(url, tmp_path / "c")
    assert verify_cache(tmp_path / "c") == []


def test_a_pull_cut_in_the_middle_is_no_cache_and_goes_on(tiny_cache, url, line, tmp_path):
    push(tiny_cache, url, card=CARD)
    manifest = Manifest.read(tiny_cache)
    line.cut_after(manifest.num_bytes // 2 + (tiny_cache / MANIFEST_NAME).stat().st_size)
    with pytest.raises(RemoteUnreachable, match="What has moved is kept"):
        pull(url, tmp_path / "c", jobs=1)
    line.mend()
    with pytest.raises(CacheError, match="`cache pull`, give that command again"):
        CacheReader(tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.partial"))
    (tmp_path / "c" / "train" / "shard-00000.h5.host-1.partial").write_bytes(b"of a killed pull")
    done = pull(url, tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.partial"))
    assert done.num_kept > 0 and 0 < done.num_bytes < manifest.num_bytes
    assert verify_cache(tmp_path / "c") == []


def test_a_byte_flipped_on_the_remote_is_refused_by_name_and_does_not_land(
    tiny_cache, url, tmp_path
):
    push(tiny_cache, url, card=CARD)
    name = "validation/shard-00000.h5"
    damaged = bytearray((tiny_cache / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    open_remote(url).write({name: bytes(damaged)})
    with pytest.raises(CacheError, match=f"{name} is damaged"):
        pull(url, tmp_path / "c")
    assert not (tmp_path / "c" / name).exists()
    assert not (tmp_path / "c" / MANIFEST_NAME).exists()


def test_a_push_that_reads_back_mends_a_damaged_remote_and_one_that_replaces_trusts_nothing(
    tiny_cache, url, tmp_path
):
    num_files = len(Manifest.read(tiny_cache).files)
    push(tiny_cache, url, card=CARD)
    name = "validation/shard-00000.h5"
    damaged = bytearray((tiny_cache / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    remote = open_remote(url)
    remote.write({name: bytes(damaged)})
    assert push(tiny_cache, url, card=CARD).num_files == 0
    with pytest.raises(CacheError, match=f"cache push DIR {url} --verify"):
        pull(url, tmp_path / "c")
    assert push(tiny_cache, url, card=CARD, verify=True).num_files == 1
    pull(url, tmp_path / "c")
    assert verify_cache(tmp_path / "c") == []

    remote.write({name: bytes(damaged)})
    assert push(tiny_cache, url, card=CARD, replace=True, verify=True).num_files == 1
    remote.write({name: bytes(damaged)})
    assert push(tiny_cache, url, card=CARD, replace=True).num_files == num_files
    assert remote.read(name) == (tiny_cache / name).read_bytes()


def test_missing_buckets_and_credentials_are_sentences(tiny_cache, line, monkeypatch, tmp_path):
    with pytest.raises(
        CacheError, match="is not there: .*\nMend the URL, or make the bucket first"
    ):
        push(tiny_cache, "s3://nobody/x", card=CARD)
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(CacheError, match="no credentials were found"):
        push(tiny_cache, f"s3://{BUCKET}/locked", card=CARD)


def test_splits_come_as_they_are_asked_for(tiny_cache, url, tmp_path):
    push(tiny_cache, url, card=CARD)
    pull(url, tmp_path / "c", splits=("validation",))
    assert not list((tmp_path / "c").glob("train/*.h5"))
    with CacheReader(tmp_path / "c") as reader, CacheReader(tiny_cache) as original:
        found, expected = (r.read("validation", [3]).token_ids for r in (reader, original))
        assert (found == expected).all()
    rest = pull(url, tmp_path / "c", splits=("train",))
    assert rest.num_files == len(list(tiny_cache.glob("train/*.h5")))
    assert verify_cache(tmp_path / "c") == []
    with pytest.raises(CacheError, match="no split 'test'; it has train, validation"):
        pull(url, tmp_path / "c", splits=("test",))


def test_a_local_copy_serves_where_the_network_is_gone(
    tiny_cache, url, line, tmp_path, monkeypatch
):
    monkeypatch.setenv("LOGITCACHE_HOME", str(tmp_path / "home"))
    line.cut_after(0)
    with pytest.raises(RemoteUnreachable, match="could not be reached"):
        local_cache(url)
    line.mend()
    push(tiny_cache, url, card=CARD)
    folder = local_cache(url)
    assert folder == local_folder(url) and folder.parent == tmp_path / "home"
    line.cut_after(0)
    with pytest.warns(CacheWarning, match=f"Going on with the copy at {re.escape(str(folder))}"):
        assert local_cache(url) == folder
    shutil.rmtree(folder / "train")
    with pytest.raises(RemoteUnreachable):
        local_cache(url)
    assert local_cache(str(tiny_cache)) == tiny_cache


def test_two_commands_that_need_one_url_pull_it_once(tiny_cache, url, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGITCACHE_HOME", str(tmp_path / "home"))
    push(tiny_cache, url, card=CARD)
    script = (
        "import sys, cache.remote.local_copy as copies\n"
        "pull = copies.pull\n"
        "def told(*args, **options): print(pull(*args, **options).num_bytes)\n"
        "copies.pull = told\n"
        "print(copies.local_cache(sys.argv[1]))\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate()[0].split() for process in started]
    assert {folder for _, folder in answers} == {str(local_folder(url))}
    assert sorted(int(moved) for moved, _ in answers) == [0, Manifest.read(tiny_cache).num_bytes]
    assert verify_cache(local_folder(url)) == []


def test_train_trains_from_a_url(tiny_cache, url, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGITCACHE_HOME", str(tmp_path / "home"))
    push(tiny_cache, url, card=CARD)
    words = [
        "train", "--cache", url, "--recipe", "model_44m_t2.0_a0.5", "--student",
        small_recipe().student, "--epochs", "1", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["cache"]["identity_hash"] == Manifest.read(tiny_cache).identity.sha256
    assert Path(run["cache"]["path"]) == local_folder(url)


@pytest.fixture
def small_disk(tmp_path, tiny_cache):
    """A real filesystem with room for half of the cache."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = Manifest.read(tiny_cache).num_bytes // 2
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_folder_refuses_a_push_which_goes_on(tiny_cache, small_disk):
    remote = small_disk / "r"
    with pytest.raises(CacheError, match="could not be written: .*No space left on device"):
        push(tiny_cache, str(remote), card=CARD)
    assert not (remote / MANIFEST_NAME).exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    push(tiny_cache, str(remote), card=CARD)
    assert verify_cache(remote) == []


def test_a_full_disk_is_a_sentence_and_the_pull_goes_on(tiny_cache, url, small_disk):
    push(tiny_cache, url, card=CARD)
    with pytest.raises(CacheError, match="no space left on its disk"):
        pull(url, small_disk / "c", jobs=2)
    assert not list(small_disk.rglob("*.partial"))
    assert not (small_disk / "c" / MANIFEST_NAME).exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert pull(url, small_disk / "c").num_kept > 0
    assert verify_cache(small_disk / "c") == []
