"""What a log shows of long work, where nobody looks at a bar."""

import pytest

import cache.machine.progress
from cache.machine.progress import BuildProgress, counted_progress
from evaluation.judging.progress import Stages
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cache.machine.progress, "time", clock)
    return clock


def test_rows_of_a_build_are_told_every_ten_seconds(clock, capsys):
    with BuildProgress(total=1_000, done=200) as progress:
        for _ in range(4):
            clock.now += 6
            progress.advance(100)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("rows 400/1,000, ") and first.endswith(" tokens/s, 0:00:36 left")
    assert second.startswith("rows 600/1,000, ") and second.endswith(", 0:00:24 left")


def test_short_work_tells_nothing(clock, capsys):
    with counted_progress("layers", first="loading") as on_done:
        clock.now += 9
        on_done(3, 4)
    assert capsys.readouterr().err == ""


def test_work_of_which_nobody_knows_the_end_is_told_too(clock, capsys):
    """As a corpus is read without `--max-tokens`."""
    with counted_progress("reading the corpus", first="opening the corpus") as on_tokens:
        for done in (1_000, 2_000):
            clock.now += 11
            on_tokens(done, None)
    assert capsys.readouterr().err.splitlines() == [
        "reading the corpus 1,000", "reading the corpus 2,000",
    ]  # fmt: skip


def test_work_in_parts_is_told_by_the_time_of_each(clock, capsys):
    """After a minute of loading, 20 s a step, then 5 s a step, then as many at 20 s again."""
    with counted_progress("layers", first="loading") as on_done:
        clock.now += 60
        for total, seconds in ((4, 20), (10, 5), (10, 20)):
            for done in range(1, 4):
                on_done(done, total)
                clock.now += seconds
    assert capsys.readouterr().err.splitlines() == [
        "layers 2/4, 0:00:40 left", "layers 3/4, 0:00:20 left", "layers 3/10, 0:00:35 left",
        "layers 2/10, 0:02:40 left", "layers 3/10, 0:02:20 left",
    ]  # fmt: skip


def test_stages_of_a_comparison_have_their_own_time(clock, capsys):
    """Six seconds for two of ten; the first two were done before anybody counted."""
    with Stages() as stages:
        for stage in ("greedy: generate", "greedy: run"):
            for _ in range(3):
                clock.now += 6
                stages("student", stage, 2, 10)
    assert capsys.readouterr().err.splitlines() == [
        "student  greedy: generate 6/10, 0:00:12 left", "student  greedy: run 6/10, 0:00:12 left"
    ]  # fmt: skip
