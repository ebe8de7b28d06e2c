"""A manifest that says what no cache can be, sealed by whoever made it."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json
from cache.reading.reader import CacheReader
from cache.remote.pull import pull
from cache.remote.push import push
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.tools.extend import extend_cache
from cache.tools.merge import merge_caches
from cache.tools.reencode import reencode_cache
from cache.tools.verify import verify_cache


@pytest.fixture
def copy(tmp_path, tiny_cache) -> Path:
    """A copy of the tiny cache whose manifest a test may forge."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "copy"))


def forge(directory: Path, change) -> None:
    """Change the manifest and the plan, and seal both."""
    content = read_sealed_json(directory / "manifest.json")
    change(content)
    write_sealed_json(directory / "manifest.json", content)
    write_sealed_json(directory / "plan.json", content["plan"])


def in_identity(**values):
    return lambda m: m["plan"]["identity"].update(**values)


def in_shard(**values):
    return lambda m: m["plan"]["shards"][0].update(**values)


def in_file(**values):
    return lambda m: m["files"][-1].update(**values)


def twice(values: list) -> None:
    values.append(values[-1])


FORGERIES = [
    (in_identity(format_version=99), "format version 99; this"),
    (lambda m: m["plan"]["identity"].pop("dtype"), "not those of this version: .'dtype'"),
    (in_identity(max_length="8"), "field max_length is '8'"),
    (lambda m: m["plan"].update(identity=[]), "identity is not a JSON object"),
    (lambda m: m["plan"].update(shards=[]), "names no shard"),
    (lambda m: twice(m["plan"]["shards"]), "do not follow the last"),
    (in_shard(path="../x.h5"), "not the path of a shard of 'train'"),
    (in_shard(path="/etc/x"), "not the path of a shard of 'train'"),
    (in_shard(path="validation/shard-00000.h5"), "not the path of a shard of 'train'"),
    (in_shard(split="../x"), "cannot name a folder"),
    (in_shard(split="/x", path="/x/shard-00000.h5"), "cannot name a folder"),
    (in_shard(split="plan.json", path="plan.json/shard-00000.h5"), "cannot name a folder"),
    (in_shard(split=5), "does not have the fields"),
    (in_shard(first_document=99), "do not follow the last shard's"),
    (in_shard(num_documents=0), "a document has 2 or more"),
    (in_shard(num_documents=10**12), "a document has 2 or more"),
    (in_shard(num_tokens=10**30), "stands where a count belongs"),
    (in_shard(num_tokens=-5), "-5 stands where a count belongs"),
    (in_shard(num_tokens=500.0), "500.0 stands where a count belongs"),
    (lambda m: m["plan"].update(dropped={"train": 5}), "5 stands where list belongs"),
    (lambda m: m["plan"].update(dropped={"train": [{"x": 1}]}), "problem that was left out"),
    (lambda m: m.pop("files"), "does not have the fields of a cache"),
    (lambda m: twice(m["files"]), "names 'tokenizer/tokenizer.* twice|names 'tail.* twice"),
    (lambda m: m.update(files=[]), "has no checksum of train/shard-00000.h5"),
    (in_file(num_bytes=-1), "-1 stands where a count belongs"),
    (in_file(sha256=None), "None stands where str belongs"),
    *((in_file(path=path), "not the path of a file of a cache") for path in (
        "/etc/passwd", "a/../../x", "tokenizer/../../x", "tokenizer", "tokenizer/a\0b",
        "tokenizer/" + "a" * 300, "train", "plan.json", "writing.lock", "README.md",
        "train/shard-99999.h5", "lengths/x.npy", "lengths/../x-5.npy", "tokenizer/a\\b",
        ".git/config",
    )),
    (lambda m: m.update(fidelity=[{}]), "does not have the fields"),
    (lambda m: m["fidelity"][0].update(kl="x"), "'x' stands where int or float or null belongs"),
    (lambda m: m.update(created={}), "does not have the fields"),
    (lambda m: m.update(created=[["date", 5]]), "stands where dict belongs"),
    (lambda m: m["created"].update(date=5), "5 stands where str belongs"),
    (lambda m: m["created"].update(teacher_rows="x"), "'x' stands where int belongs"),
    (lambda m: m["created"].update(texts=[{"a": 1}]), "does not have the fields"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FORGERIES)
def test_a_forged_manifest_is_refused(copy, change, message):
    forge(copy, change)
    with pytest.raises(CacheError, match=message):
        Manifest.read(copy)


def test_a_split_that_leads_out_of_the_directory_is_refused_by_all_that_read_caches(
    copy, tmp_path, tiny_cache
):
    outside = tmp_path / "outside"

    def lead_out(manifest):
        for shard in manifest["plan"]["shards"]:
            shard["split"] = str(outside)

    forge(copy, lead_out)
    out = tmp_path / "out"
    attempts = [
        lambda: CacheReader(copy),
        lambda: verify_cache(copy),
        lambda: merge_caches(out, [copy]),
        lambda: merge_caches(out, [tiny_cache, copy]),
        lambda: reencode_cache(copy, out, TargetFormat(top_k=4, tail="renormalize")),
        lambda: extend_cache(copy, splits=("test",)),
        lambda: pull(str(copy), out),
        lambda: push(copy, str(out), card="card"),
    ]
    for attempt in attempts:
        with pytest.raises(CacheError, match=f"{outside}.*cannot name a folder"):
            attempt()
    assert not outside.exists() and not list(out.rglob("*.h5"))


@pytest.mark.parametrize("words", [("inspect",), ("verify",)])
def test_the_commands_say_it_in_a_sentence(copy, words):
    forge(copy, in_shard(split="../x"))
    result = CliRunner().invoke(cli.main, ["cache", *words, str(copy)])
    assert result.exit_code == 1 and "cannot name a folder" in result.output
    assert "Traceback" not in result.output
