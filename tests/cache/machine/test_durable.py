"""Processes of other hosts and containers, which may have this one's pid."""

from pathlib import Path

import cache.machine.process
from cache.machine.durable import atomic_path, make_directory, remove_partials


def test_half_written_files_of_another_container_of_the_same_name_are_left_alone(
    tmp_path, monkeypatch
):
    """The pid in their name is one of theirs, not the process here that has it."""
    monkeypatch.setattr(cache.machine.process, "pid_namespace", lambda: "f0000001")
    with atomic_path(tmp_path / "shard.h5") as partial:
        partial.write_text("whole")
        monkeypatch.undo()
        remove_partials(tmp_path, of_the_dead=True)
    assert (tmp_path / "shard.h5").read_text() == "whole"


def test_a_directory_is_made_by_processes_of_one_pid_at_once(tmp_path, monkeypatch):
    touch = Path.touch

    def touch_and_lose(path):
        touch(path)
        path.unlink()  # as the process of another host does that has the same pid

    monkeypatch.setattr(Path, "touch", touch_and_lose)
    make_directory(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]
    assert not list((tmp_path / "cache").iterdir())
