"""What a directory holds belongs to the job it was made for: else it is discarded or refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import cache.teacher.teacher
from cache.building.local import build_cache
from cache.errors import CacheError, CacheWarning
from cache.machine.durable import file_sha256
from cache.storage.manifest import Manifest, Plan
from cache.targets.format import TargetFormat
from cache.teacher.stamp import source_stamp
from tests.support.builds import config_of
from tests.support.tiny_teacher import save_teacher

LOWRANK = TargetFormat(top_k=8, tail="lowrank", tail_rank=8, tail_bytes=10.0)


class Killed(BaseException):
    """A process that ends here."""


def die(*_):
    raise Killed


def with_settings(teacher: Path, folder: Path, **settings) -> Path:
    """The same weights under another configuration."""
    shutil.copytree(teacher, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def files_of(cache_dir: Path) -> dict[str, str]:
    """Hashes of all files but the manifest, which holds a date."""
    files = [path for path in cache_dir.rglob("*") if path.is_file()]
    return {
        path.relative_to(cache_dir).as_posix(): file_sha256(path)
        for path in files
        if path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, tiny_teacher) -> list[Path]:
    """The tiny teacher, other weights of its shape, and one of three layers."""
    folder = tmp_path_factory.mktemp("teachers")
    save_teacher(folder / "weights", seed=1)
    save_teacher(folder / "layers", num_layers=3)
    return [tiny_teacher, folder / "weights", folder / "layers"]


@pytest.mark.parametrize(
    "targets, before",
    [
        (LOWRANK, {"seed": 1}),
        (LOWRANK, {"targets": replace(LOWRANK, tail_bytes=4.0)}),
        (TargetFormat(top_k=8, tail="hidden"), {"seed": 1}),
    ],
    ids=["weights", "bytes", "head"],
)
def test_a_tail_of_a_build_that_was_killed_before_its_plan_is_not_used(
    tmp_path, teachers, monkeypatch, targets, before
):
    first = {"targets": targets} | before
    first_teacher = first.pop("seed", 0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Plan, "write", die)
        build_cache(config_of(tmp_path / "c", teachers[first_teacher], **first))
    other = tmp_path / "c" / "tokenizer" / "chat_template.jinja"
    other.write_text("of another tokenizer")
    with pytest.raises(CacheError, match="is no file of this cache's tokenizer, and would be read"):
        build_cache(config_of(tmp_path / "c", teachers[0], targets=targets))
    other.unlink()
    build_again = config_of(tmp_path / "c", teachers[first_teacher], targets=first["targets"])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Plan, "write", die)
        build_cache(build_again)
    assert (tmp_path / "c" / "tail.safetensors").is_file()
    for name in ("c", "clean"):
        build_cache(config_of(tmp_path / name, teachers[0], targets=targets))
    assert files_of(tmp_path / "c") == files_of(tmp_path / "clean")


def test_a_basis_from_elsewhere_is_not_ignored_by_a_build_that_goes_on(tmp_path, teachers):
    build_cache(config_of(tmp_path / "a", teachers[0], targets=LOWRANK))
    build_cache(config_of(tmp_path / "b", teachers[0], targets=LOWRANK, limit=5))
    wanted = config_of(
        tmp_path / "b", teachers[0], targets=LOWRANK, limit=5, tail_from=tmp_path / "a"
    )
    for _ in range(2):  # complete, then not
        with pytest.raises(CacheError, match="begun with another basis than that of --tail-from"):
            build_cache(wanted)
        (tmp_path / "b" / "manifest.json").unlink(missing_ok=True)


def test_a_basis_made_for_other_bytes_or_another_configuration_is_not_taken(tmp_path, teachers):
    build_cache(config_of(tmp_path / "a", teachers[0], targets=LOWRANK))
    other = config_of(
        tmp_path / "b",
        teachers[0],
        targets=replace(LOWRANK, tail_bytes=4.0),
        tail_from=tmp_path / "a",
    )
    with pytest.raises(CacheError, match=r"targets.tail_bytes: 10.0 there, 4.0 asked for"):
        build_cache(other)
    bent = with_settings(teachers[0], tmp_path / "bent", norm_epsilon=0.5)
    with pytest.raises(CacheError, match=r"configuration.norm_epsilon"):
        build_cache(config_of(tmp_path / "d", bent, targets=LOWRANK, tail_from=tmp_path / "a"))


def test_a_complete_cache_refuses_another_teacher_and_stays(tmp_path, teachers):
    out = tmp_path / "c"
    build_cache(config_of(out, teachers[0]))
    before = files_of(out)
    for seed, field in ((1, "teacher_sha256"), (2, "configuration.num_hidden_layers: 2 there, 3")):
        with pytest.raises(CacheError, match=field):
            build_cache(config_of(out, teachers[seed]))
    (out / "train" / "shard-00000.h5").unlink()
    with pytest.raises(CacheError, match="teacher_sha256"):
        build_cache(config_of(out, teachers[1]))
    assert {**before, **files_of(out)} == before and (out / "manifest.json").is_file()


def test_a_complete_cache_refuses_a_teacher_that_was_trained_further_in_place(tmp_path, teachers):
    folder = tmp_path / "teacher"
    shutil.copytree(teachers[0], folder)
    build_cache(config_of(tmp_path / "c", folder))
    weights = folder / "model.safetensors"
    before = weights.stat()
    weights.write_bytes((teachers[1] / "model.safetensors").read_bytes())
    assert weights.stat().st_size == before.st_size
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CacheError, match="teacher_sha256"):
        build_cache(config_of(tmp_path / "c", folder))


def test_a_copy_of_the_teacher_is_known_by_its_hash(tmp_path, teachers):
    build_cache(config_of(tmp_path / "c", teachers[0]))
    shutil.copytree(teachers[0], tmp_path / "copy")
    assert build_cache(config_of(tmp_path / "c", tmp_path / "copy")).already_complete


def test_the_same_weights_under_another_configuration_are_another_teacher(tmp_path, teachers):
    build_cache(config_of(tmp_path / "c", teachers[0]))
    rope = {"rope_theta": 100.0, "rope_type": "default"}
    other = with_settings(teachers[0], tmp_path / "rope", rope_parameters=rope)
    for _ in range(2):  # complete, then not
        with pytest.raises(CacheError, match="configuration.rope_parameters: .*10000.0") as refused:
            build_cache(config_of(tmp_path / "c", other))
        assert "teacher_sha256" not in str(refused.value)
        (tmp_path / "c" / "manifest.json").unlink(missing_ok=True)
    named = with_settings(teachers[0], tmp_path / "named", _name_or_path="x", eos_token_id=5)
    assert build_cache(config_of(tmp_path / "c", named)).num_new_rows == 0


def test_a_build_begun_before_configurations_were_recorded_goes_on(tmp_path, teachers, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache.teacher.teacher, "configuration_of", lambda model: None)
        build_cache(config_of(tmp_path / "c", teachers[0]))
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.warns(CacheWarning, match="only its weights are known to be the same"):
        assert build_cache(config_of(tmp_path / "c", teachers[0])).num_new_rows == 0
    assert Manifest.read(tmp_path / "c").identity.configuration is None


def test_an_adapter_has_no_stamp_since_its_base_stands_elsewhere(tmp_path, teachers):
    shutil.copytree(teachers[0], tmp_path / "adapter")
    assert source_stamp(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert source_stamp(str(tmp_path / "adapter")) == ""
    assert source_stamp("nobody/nothing-of-that-name") == ""
