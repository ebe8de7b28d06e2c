"""Push and pull by folders: which cache may stand where, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from cache.errors import CacheError
from cache.machine.durable import write_sealed_json
from cache.machine.lock import writer_lock
from cache.remote.local_copy import local_folder
from cache.remote.pull import pull
from cache.remote.push import JOURNAL_NAME, push
from cache.remote.remote import Remote
from cache.remote.schemes import open_remote
from cache.storage.manifest import MANIFEST_NAME, Manifest
from cache.tools.verify import verify_cache

CARD = "# card\n"


def run(*words: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(cli.main, [str(word) for word in words])
    return result.exit_code, result.output


def changed(cache: Path, out: Path, *, num_shards: int | None = None, **identity: object) -> Path:
    """A copy of a cache whose manifest has fewer shards or another identity."""
    shutil.copytree(cache, out)
    manifest = Manifest.read(out)
    shards = manifest.plan.shards[:num_shards]
    gone = {shard.path for shard in manifest.plan.shards} - {shard.path for shard in shards}
    plan = replace(manifest.plan, shards=shards, identity=replace(manifest.identity, **identity))
    plan.write(out)
    files = tuple(file for file in manifest.files if file.path not in gone)
    replace(manifest, plan=plan, files=files).write(out)
    return out


def test_the_commands_push_pull_and_say_what_moved(tiny_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGITCACHE_HOME", str(tmp_path / "home"))
    num_files = len(Manifest.read(tiny_cache).files)
    code, output = run("cache", "push", tiny_cache, tmp_path / "r", "--data-license", "mit")
    assert code == 0, output
    assert f"r is complete: {num_files} files moved" in output and "0 were there" in output
    assert "| data |" in (tmp_path / "r" / "README.md").read_text()
    code, output = run("cache", "pull", f"file://{tmp_path / 'r'}", tmp_path / "c", "--jobs", 2)
    assert code == 0 and f"{num_files} files moved" in output
    code, output = run("cache", "pull", tmp_path / "r", tmp_path / "c")
    assert "c is complete: 0 files moved (0 bytes)" in output
    code, output = run("cache", "verify", f"file://{tmp_path / 'r'}")
    assert code == 0 and "home" in output and "is sound" in output
    code, output = run("cache", "inspect", f"file://{tmp_path / 'r'}")
    assert code == 0 and "Fidelity over" in output


def test_an_extended_cache_takes_the_place_of_the_smaller_one_and_moves_the_rest(
    tiny_cache, tmp_path
):
    smaller = changed(
        tiny_cache, tmp_path / "s", num_shards=2, dataset_sha256={"train": "of fewer"}
    )
    first = push(smaller, str(tmp_path / "r"), card=CARD)
    pull(str(tmp_path / "r"), tmp_path / "c")
    second = push(tiny_cache, str(tmp_path / "r"), card=CARD)
    assert second.num_kept == first.num_files
    assert pull(str(tmp_path / "r"), tmp_path / "c").num_files == second.num_files
    assert verify_cache(tmp_path / "c") == []
    with pytest.raises(CacheError, match="holds another cache.*\nNothing was moved; push elsewh"):
        push(smaller, str(tmp_path / "r"), card=CARD)


def test_another_cache_is_refused_and_replaced_on_demand(tiny_cache, tmp_path):
    other = changed(tiny_cache, tmp_path / "o", num_shards=1, teacher_sha256="other")
    push(tiny_cache, str(tmp_path / "r"), card=CARD)
    with pytest.raises(CacheError, match="push elsewhere, or give --replace"):
        push(other, str(tmp_path / "r"), card=CARD)
    push(other, str(tmp_path / "r"), card=CARD, replace=True)
    there = open_remote(str(tmp_path / "r")).sizes()
    assert "train/shard-00001.h5" not in there and JOURNAL_NAME not in there
    pull(str(tmp_path / "r"), tmp_path / "c")
    push(tiny_cache, str(tmp_path / "r"), card=CARD, replace=True)
    with pytest.raises(CacheError, match="holds another cache.*\nNothing was moved; give another"):
        pull(str(tmp_path / "r"), tmp_path / "c")
    (tmp_path / "c" / MANIFEST_NAME).unlink()
    with pytest.raises(CacheError, match="holds an unfinished other cache; give another DIR"):
        pull(str(tmp_path / "r"), tmp_path / "c")


def test_a_damaged_local_cache_is_refused(tiny_cache, tmp_path):
    copy = shutil.copytree(tiny_cache, tmp_path / "copy")
    shard = copy / "validation" / "shard-00000.h5"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(CacheError, match="shard-00000.h5 is damaged.*It was not pushed"):
        push(copy, str(tmp_path / "r"), card=CARD)
    assert not (tmp_path / "r" / "validation" / "shard-00000.h5").exists()
    assert not (tmp_path / "r" / MANIFEST_NAME).exists()
    shard.unlink()
    with pytest.raises(CacheError, match="is missing or has another size.*Nothing was pushed"):
        push(copy, str(tmp_path / "r2"), card=CARD)
    assert not (tmp_path / "r2").exists()


def test_a_stopped_push_of_other_bytes_is_not_trusted(tiny_cache, tmp_path):
    """Two caches of one identity whose shards differ in bytes but not in size."""
    copy = shutil.copytree(tiny_cache, tmp_path / "copy")
    push(copy, str(tmp_path / "r"), card=CARD)
    (tmp_path / "r" / MANIFEST_NAME).rename(tmp_path / "r" / JOURNAL_NAME)
    name = "train/shard-00000.h5"
    (copy / name).write_bytes(b"\0" * (copy / name).stat().st_size)
    from cache.machine.durable import file_sha256

    manifest = Manifest.read(copy)
    files = tuple(
        replace(file, sha256=file_sha256(copy / name)) if file.path == name else file
        for file in manifest.files
    )
    replace(manifest, files=files).write(copy)
    assert push(copy, str(tmp_path / "r"), card=CARD).num_files == 1
    assert (tmp_path / "r" / name).read_bytes() == (copy / name).read_bytes()


@pytest.mark.parametrize("words", [(), ("--verify",), ("--replace",)])
def test_a_byte_flipped_in_a_folder_is_mended_by_a_push(tiny_cache, tmp_path, words):
    push(tiny_cache, str(tmp_path / "r"), card=CARD)
    names = ["train/shard-00000.h5", "plan.json"]
    for name in [*names, MANIFEST_NAME] if "--replace" in words else names:
        content = bytearray((tmp_path / "r" / name).read_bytes())
        content[500] ^= 1
        (tmp_path / "r" / name).write_bytes(content)
    code, output = run("cache", "push", tiny_cache, tmp_path / "r", *words)
    assert code == 0 and "r is complete: 1 files moved" in output, output
    pull(str(tmp_path / "r"), tmp_path / "c")
    assert verify_cache(tmp_path / "c") == []


def test_what_arrives_otherwise_than_it_was_sent_is_found(tiny_cache, tmp_path, monkeypatch):
    def put_zeros(remote, name, local, on_bytes):
        remote.write({name: b"\0" * local.stat().st_size})

    monkeypatch.setattr(Remote, "_put", put_zeros)
    with pytest.raises(CacheError, match="after it was put, not .*\n.*the manifest was not put"):
        push(tiny_cache, str(tmp_path / "r"), card=CARD)
    assert not (tmp_path / "r" / MANIFEST_NAME).exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", MANIFEST_NAME])
def test_a_manifest_with_paths_of_no_cache_is_refused(tiny_cache, tmp_path, path):
    remote = shutil.copytree(tiny_cache, tmp_path / "r")
    content = json.loads((remote / MANIFEST_NAME).read_text())
    del content["checksum"]
    content["files"][-1]["path"] = path
    write_sealed_json(remote / MANIFEST_NAME, content)
    with pytest.raises(CacheError, match="not the path of a file of a cache") as caught:
        pull(str(remote), tmp_path / "c")
    assert str(remote / MANIFEST_NAME) in str(caught.value)
    assert not (tmp_path / "c").exists() and not (tmp_path / "x").exists()


def test_damaged_manifests_of_remotes_are_refused_with_the_way_out(tiny_cache, tmp_path):
    remote = shutil.copytree(tiny_cache, tmp_path / "r")
    (remote / MANIFEST_NAME).write_text("{}")
    with pytest.raises(CacheError, match="is damaged"):
        pull(str(remote), tmp_path / "c")
    with pytest.raises(CacheError, match="(?s)is damaged.*give --replace"):
        push(tiny_cache, str(remote), card=CARD)
    push(tiny_cache, str(remote), card=CARD, replace=True)
    assert verify_cache(remote) == []


def test_folders_that_hold_something_else_are_left_alone(tiny_cache, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    with pytest.raises(CacheError, match=r"not empty and holds no cache \(thesis.tex\)"):
        pull(str(tiny_cache), folder)
    with pytest.raises(CacheError, match=r"(?s)not empty and holds no cache \(thesis.*--replace"):
        push(tiny_cache, str(folder), card=CARD)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_two_pulls_into_one_directory_take_turns(tiny_cache, tmp_path):
    (tmp_path / "c").mkdir()
    with writer_lock(tmp_path / "c"), pytest.raises(CacheError, match="is being written"):
        pull(str(tiny_cache), tmp_path / "c")
    pull(str(tiny_cache), tmp_path / "c")
    with writer_lock(tmp_path / "c"):  # nothing to move, so no lock is needed
        assert pull(str(tiny_cache), tmp_path / "c").num_files == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere", r"(?s)There is no cache at nowhere.*Push one: python cli.py cache push DIR"),
        ("carrier-pigeon://loft/c", "the scheme carrier-pigeon:// is not known. Use s3://"),
        ("gs://bucket/c", "gs:// needs a library that is not installed: pip install gcsfs"),
        ("ssh://host/c", "ssh:// needs a library that is not installed: pip install paramiko"),
        ("hf://models/org/name", "a cache on the hub is at hf://datasets/ORGANISATION/NAME"),
    ],
)
def test_urls_that_lead_nowhere_are_sentences(url, message, tmp_path, monkeypatch):
    import sys

    for name in ("gcsfs", "paramiko"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "cache.remote.ssh", raising=False)
    with pytest.raises(CacheError, match=message):
        pull(url, tmp_path / "c")


def test_local_folders_of_urls_can_be_read_and_do_not_collide(monkeypatch, tmp_path):
    monkeypatch.setenv("LOGITCACHE_HOME", str(tmp_path))
    one, two = local_folder("s3://bucket/a/b"), local_folder("gs://bucket/a/b")
    assert one.name.startswith("bucket-a-b-") and one != two
    assert local_folder("s3://bucket/a/b/") == one
    assert local_folder("s3://../..//").parent == tmp_path
    monkeypatch.delenv("LOGITCACHE_HOME")
    assert one.name in str(local_folder("s3://bucket/a/b")) and ".cache/logitcache" in str(
        local_folder("s3://bucket/a/b")
    )
