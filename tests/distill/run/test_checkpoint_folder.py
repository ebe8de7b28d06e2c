"""Which checkpoints are there, which are sound, and which stay."""

import pytest

from distill.errors import DistillError
from distill.run.checkpoint_folder import (
    checkpoint_path,
    last_sound_checkpoint,
    list_checkpoints,
    remove_checkpoints,
    seal_checkpoint,
    what_is_kept,
)
from tests.support.distill_fakes import flip_a_bit


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 2, 4 and 10, and things that are none."""
    for step in (2, 4, 10):
        path = checkpoint_path(tmp_path, step)
        path.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "rng.pt"):
            (path / name).write_bytes(f"{name} {step}".encode())
        seal_checkpoint(path, {"step": step})
    (tmp_path / "step-00000012").write_text("a file")
    for name in ("keep-me", "step-00000099-copy", "step-00000012.partial"):
        (tmp_path / name).mkdir()
    return tmp_path


def steps(folder):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def test_the_last_whole_checkpoint_is_gone_on_from(folder):
    assert last_sound_checkpoint(folder) == (checkpoint_path(folder, 10), [])
    assert last_sound_checkpoint(folder / "none") == (None, [])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng.pt", "state.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink()])
def test_a_damaged_checkpoint_is_passed_over_and_complained_about(folder, name, damage):
    damage(checkpoint_path(folder, 10) / name)
    found, (complaint,) = last_sound_checkpoint(folder)
    assert found == checkpoint_path(folder, 4)
    assert "step-00000010" in complaint and name in complaint


def test_damaged_checkpoints_alone_are_an_error(folder):
    for step in (2, 4, 10):
        flip_a_bit(checkpoint_path(folder, step) / "rng.pt")
    with pytest.raises(DistillError, match="step-00000010 is damaged: rng.pt.*train anew"):
        last_sound_checkpoint(folder)


def test_two_checkpoints_stay_and_all_that_is_none(folder):
    remove_checkpoints(folder)
    assert steps(folder) == [4, 10]
    others = {path.name for path in folder.iterdir()} - {"step-00000004", "step-00000010"}
    assert others == {"keep-me", "step-00000099-copy", "step-00000012"}
    remove_checkpoints(folder, up_to=4)
    assert steps(folder) == [4]


def test_a_sentence_says_whether_there_is_a_checkpoint(folder):
    assert "step-00000010, is intact" in what_is_kept(folder)
    assert what_is_kept(folder / "none") == "There is no checkpoint yet."
