"""Jobs of lessons with a teacher whose answers are known, and one with a real one."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from cache.building.workers import Worker
from cache.data.problems import load_problems
from cache.errors import CacheError
from cache.machine import durable
from cache.machine.lock import writer_lock
from cache.machine.process import home
from cache.reading.reader import CacheReader
from evaluation.errors import EvaluationError
from evaluation.lessons import join, parts
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.write import write_lessons
from evaluation.sandbox import processes
from tests.support.builds import FORK
from tests.support.command_line import run
from tests.support.scripted_writer import (
    GOLD,
    PROBLEMS,
    lessons_config,
    read_lines,
    save_problems,
    script,
)
from tests.support.tiny_models import save_tiny

WRONG = "def {}(*arguments):\n    return 'wrong'"
NAMES = {"MBPP/601": "add_one", "MBPP/602": "join", "MBPP/603": "largest"}
ADD = (
    "def add_one(number):\n    # the same in other words\n    return number + 1",
    "def add_one(x):\n    return sum([x, 1])",
)


def mixed(name, sample):
    """Right, a near copy, wrong, no code; of the first problem one that differs instead."""
    if name == "MBPP/601" and sample in (1, 2):
        return ADD[sample - 1]
    return (GOLD[name], GOLD[name].replace("values", "v"), WRONG.format(NAMES[name]), "")[sample]


def files_of(config):
    return {path.name: path.read_bytes() for path in (config.out, config.failed)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_teacher):
    """The files of a call that nothing has stopped."""
    config = lessons_config(tmp_path_factory.mktemp("whole"), tiny_teacher)
    with pytest.MonkeyPatch.context() as patch:
        script(patch, mixed)
        write_lessons(config)
    return files_of(config)


def test_what_passes_is_written_and_what_fails_is_kept_aside(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    stats = write_lessons(config).stats
    lessons, failed = read_lines(config.out), read_lines(config.failed)
    assert [(row["problem_id"], row["code"]) for row in lessons] == [
        (601, GOLD["MBPP/601"]), (601, ADD[1]), (602, GOLD["MBPP/602"]), (603, GOLD["MBPP/603"]),
    ]  # fmt: skip
    assert [(row["problem_id"], row["reason"]) for row in failed] == [
        (601, "empty"), (602, "wrong_answer"), (602, "empty"), (603, "wrong_answer"),
        (603, "empty"),
    ]  # fmt: skip
    assert failed[1]["code"] == failed[1]["raw"] == WRONG.format("join")
    assert lessons[1]["provenance"]["sample"] == 2 and lessons[0]["origin"] == "teacher"
    assert lessons[0]["provenance"]["writer"] == tiny_teacher.name
    assert lessons[0]["provenance"]["writer_identity"].startswith("sha256:")
    assert lessons[0]["provenance"]["verdict"] == "passed|mode:oracle"
    assert "temp:0.8|top_p:0.95|seed:0" in lessons[0]["provenance"]["settings"]
    assert "\nInstruction:" in lessons[0]["provenance"]["stops"]
    assert "sandbox:" in lessons[0]["provenance"]["judging"]
    assert lessons[0]["test_list"] == PROBLEMS[0]["test_list"]
    assert (stats.samples, stats.passed, stats.near_copies, stats.lessons) == (12, 7, 3, 4)
    assert stats.passed_by_problem == {"601": 3, "602": 2, "603": 2}
    assert list(stats.passed_by_sample) == [3, 3, 1, 0]
    assert stats.outcomes == {"passed": 7, "empty": 3, "wrong_answer": 2}
    assert (stats.tokens, stats.checks) == (12 * 7, 9)
    assert json.loads(config.stats.read_text())["lessons"] == 4


def test_lessons_are_read_as_they_are_in_the_split_of_their_problem(
    tmp_path, tiny_teacher, monkeypatch
):
    held_out = {**PROBLEMS[1], "task_id": 511}
    save_problems(tmp_path / "problems.jsonl", [PROBLEMS[0], held_out])
    names = {"MBPP/601": GOLD["MBPP/601"], "MBPP/511": GOLD["MBPP/602"]}
    script(monkeypatch, lambda name, sample: names[name] + f"\n# {sample}")
    write_lessons(lessons_config(tmp_path, tiny_teacher))
    lessons = tmp_path / "lessons.jsonl"
    assert [row["problem_id"] for row in read_lines(lessons)] == [601]
    both = lessons_config(
        tmp_path, tiny_teacher, splits=("train", "validation"), out=tmp_path / "both.jsonl"
    )
    write_lessons(both)
    for split, problem_id in (("train", 601), ("validation", 511)):
        (row,) = load_problems(str(both.out), split)
        assert row.problem_id == problem_id and row.task_id // 10**9 == problem_id
        assert row.origin == "teacher"
    with pytest.raises(CacheError, match="no problems in split 'test'"):
        load_problems(str(both.out), "test")


@pytest.mark.parametrize("keep", ["failing", "all"])
def test_failing_solutions_can_be_kept_too(tmp_path, tiny_teacher, monkeypatch, keep):
    drawn = script(monkeypatch, mixed)
    write_lessons(lessons_config(tmp_path, tiny_teacher))
    drawn.clear()
    config = lessons_config(tmp_path, tiny_teacher, keep=keep)
    write_lessons(config)
    verdicts = [row["provenance"]["verdict"].split("|")[0] for row in read_lines(config.out)]
    assert verdicts.count("wrong_answer") == 2 and verdicts.count("passed") == (
        4 if keep == "all" else 0
    )
    assert drawn == []  # another choice of the same samples


def test_the_number_of_a_problem_is_bounded_to_those_that_differ_most(
    tmp_path, tiny_teacher, monkeypatch
):
    others = (
        "    return x + 1",
        "    return 1 + x",
        "    return [y + 1 for y in [x]][0]",
        "    pass",
    )
    script(monkeypatch, lambda name, sample: f"def add_one(x):\n{others[sample]}")
    config = lessons_config(tmp_path, tiny_teacher, limit=1, per_problem=2)
    stats = write_lessons(config).stats
    assert [row["provenance"]["sample"] for row in read_lines(config.out)] == [0, 2]
    assert stats.over_per_problem == 1


def test_near_copies_of_other_files_are_no_lessons(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    gold = tmp_path / "problems.jsonl"
    config = lessons_config(tmp_path, tiny_teacher, apart_from=(gold,))
    stats = write_lessons(config).stats
    assert [row["code"] for row in read_lines(config.out)] == [ADD[1]]
    assert stats.known == 6
    again = lessons_config(tmp_path, tiny_teacher, apart_from=(gold, config.out))
    with pytest.raises(EvaluationError, match="near copies of those in --apart-from. None is new"):
        write_lessons(again)


def killed(config, monkeypatch, moment):
    """Leave the work of a process that dies like `kill -9` at a moment."""

    def die(*args, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        script(monkeypatch, mixed)
        if moment == "drawing":
            script(monkeypatch, lambda name, s: mixed(name, s) if name == "MBPP/601" else die())
        elif moment == "judging":
            real = parts.judge
            calls = iter([real, die])
            monkeypatch.setattr(parts, "judge", lambda *a, **o: next(calls)(*a, **o))
        else:
            monkeypatch.setattr(join, "lesson_row", die)
        write_lessons(config)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not config.out.exists()


@pytest.mark.parametrize(
    ("moment", "left"), [("drawing", ["602", "603"]), ("judging", ["603"]), ("joining", [])]
)
def test_a_killed_call_goes_on_to_the_same_bytes(
    tmp_path, tiny_teacher, monkeypatch, whole, moment, left
):
    config = lessons_config(tmp_path, tiny_teacher)
    killed(config, monkeypatch, moment)
    monkeypatch.undo()
    torn = config.out.with_name(f"{config.out.name}.{home()}-{os.getpid()}.partial")
    torn.write_text("{")
    drawn = script(monkeypatch, mixed)
    write_lessons(config)
    assert drawn == [f"MBPP/{number}:{sample}" for number in left for sample in range(4)]
    assert files_of(config) == whole
    assert not list(config.work.glob("*.lock")) and not list(config.out.parent.rglob("*.partial"))


def test_a_damaged_part_is_made_again(tmp_path, tiny_teacher, monkeypatch):
    drawn = script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    write_lessons(config)
    before = files_of(config)
    path = config.work / "part-00001.drawn.json"
    path.write_text(path.read_text().replace("wrong", "right"))
    drawn.clear()
    write_lessons(config)
    assert {name.partition(":")[0] for name in drawn} == {"MBPP/602"}
    assert files_of(config) == before


def test_workers_share_the_problems_and_the_last_writes(tmp_path, tiny_teacher, monkeypatch, whole):
    drawn = script(monkeypatch, mixed)
    two = lessons_config(tmp_path, tiny_teacher)
    first = write_lessons(two, Worker(rank=1, count=2))
    assert first.stats is None and first.missing == 2 and not two.out.exists()
    assert {name.partition(":")[0] for name in drawn} == {"MBPP/602"}
    assert write_lessons(two, Worker(rank=0, count=2)).stats is not None
    assert files_of(two) == whole


def test_the_command_says_what_other_workers_still_owe(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    words = [
        "write-lessons", "--teacher", tiny_teacher, "--dataset", config.dataset, "--samples", 4,
        "--batch-size", 1, "--no-self-check", "--out", config.out,
    ]  # fmt: skip
    code, output = run(*words, "--worker", "1/2")
    assert code == 0 and "Parts still to come, of other workers: 2." in output
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun starts it
    monkeypatch.setenv("RANK", "0")
    code, output = run(*words)
    assert code == 0 and "problems with a lesson" in output
    assert len(read_lines(config.out)) == 4


def test_a_plain_call_joins_what_workers_left(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    write_lessons(config, Worker(rank=1, count=3))
    assert write_lessons(config).stats is not None


def test_two_calls_at_once_are_refused(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    config.work.mkdir()
    with writer_lock(config.work), pytest.raises(CacheError, match="is being written by"):
        write_lessons(config)


def test_other_options_are_refused_by_name(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    write_lessons(lessons_config(tmp_path, tiny_teacher))
    with pytest.raises(EvaluationError, match=r"(?s)other options:\n  settings: .*seed:0.*seed:1"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, seed=1))
    config = lessons_config(tmp_path, tiny_teacher, seed=1, out=tmp_path / "other.jsonl")
    config.out.write_text("mine")
    with pytest.raises(EvaluationError, match="it may be other lessons"):
        write_lessons(config)
    assert config.out.read_text() == "mine"


def test_a_teacher_that_never_passes_leaves_no_lessons_and_a_sentence(
    tmp_path, tiny_teacher, monkeypatch
):
    answers = ("def largest(:", "x = 1", WRONG.format("add_one"), "")
    script(monkeypatch, lambda name, sample: answers[sample])
    config = lessons_config(tmp_path, tiny_teacher)
    words = "wrote 12 solutions of 3 problems, and none passes: exception NameError 5, empty 3, "
    with pytest.raises(EvaluationError, match=words + "syntax error 3, wrong answer 1. No lessons"):
        write_lessons(config)
    assert not config.out.exists() and len(read_lines(config.failed)) == 12


def test_problems_whose_tests_prove_nothing_are_not_written_for(
    tmp_path, tiny_teacher, monkeypatch
):
    rows = [
        {**PROBLEMS[0], "test_list": ["assert add_one(1) == 1"]},
        {**PROBLEMS[1], "test_list": ["assert join('a', 'b') == 'no' or __import__('os').abort()"]},
        {**PROBLEMS[2], "task_id": 604, "test_list": ["assert largest([3]) != 0"]},
        PROBLEMS[2],
    ]
    save_problems(tmp_path / "problems.jsonl", rows)
    drawn = script(monkeypatch, lambda name, sample: GOLD["MBPP/603"])
    config = lessons_config(tmp_path, tiny_teacher, self_check=True)
    stats = write_lessons(config).stats
    assert {name.partition(":")[0] for name in drawn} == {"MBPP/603"}
    assert stats.skipped["601"].startswith("its own solution does not pass: wrong_answer")
    assert stats.skipped["602"].startswith("its own solution does not pass:")
    assert stats.skipped["604"] == "its tests are passed by a body of `pass`"
    assert [row["problem_id"] for row in read_lines(config.out)] == [603]


def test_tests_that_crash_their_interpreter_fail_one_program_at_a_time(
    tmp_path, tiny_teacher, monkeypatch
):
    crash = {**PROBLEMS[0], "test_list": ["assert add_one(1) == 2 and __import__('os').abort()"]}
    save_problems(tmp_path / "problems.jsonl", [crash, PROBLEMS[1]])
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    write_lessons(config)
    assert [row["problem_id"] for row in read_lines(config.out)] == [602]


def test_problems_without_tests_are_kept_unjudged_if_all_is(tmp_path, tiny_teacher, monkeypatch):
    save_problems(tmp_path / "problems.jsonl", [PROBLEMS[0], {**PROBLEMS[1], "test_list": []}])
    script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher, keep="all", per_problem=9)
    write_lessons(config)
    verdicts = {row["code"]: row["provenance"]["verdict"] for row in read_lines(config.out)}
    assert verdicts[GOLD["MBPP/602"]] == "no_tests|mode:not_run"
    assert verdicts[GOLD["MBPP/601"]] == "passed|mode:oracle"


def test_a_full_disk_loses_nothing_that_is_done(tmp_path, tiny_teacher, monkeypatch):
    drawn = script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    replace = os.replace

    def fail(source, target):
        if "part-00001.judged" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "replace", fail)
        with pytest.raises(EvaluationError, match="no space left on its disk"):
            write_lessons(config)
    assert not list(config.work.glob("*.partial"))
    drawn.clear()
    write_lessons(config)
    assert {name.partition(":")[0] for name in drawn} == {"MBPP/603"}  # the second was drawn


def test_a_killed_sandbox_loses_no_text(tmp_path, tiny_teacher, monkeypatch):
    drawn = script(monkeypatch, mixed)
    config = lessons_config(tmp_path, tiny_teacher)
    real = parts.judge

    def kill_it(*args, **options):
        server = processes.server("program")
        os.kill(server.pid, signal.SIGKILL)
        server._server.wait()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "judge", kill_it)
        try:
            with pytest.raises(EvaluationError, match="the sandbox's .* (is gone|did not start)"):
                write_lessons(config)
        finally:
            processes.stop_servers()  # a new process starts new ones
    drawn.clear()
    write_lessons(config)
    assert {name.partition(":")[0] for name in drawn} == {"MBPP/602", "MBPP/603"}


def test_what_a_student_writes_is_called_its_own(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, mixed)
    student = tmp_path / "student"
    shutil.copytree(tiny_teacher, student)
    config = lessons_config(tmp_path, tiny_teacher, writer=str(student), keep="all")
    write_lessons(config)
    rows = read_lines(config.out)
    assert {row["origin"] for row in rows} == {"student"}
    assert rows[0]["provenance"]["writer"] == "student"
    assert rows[0]["provenance"]["teacher"] == tiny_teacher.name
    assert "examples:0" in rows[0]["provenance"]["settings"]
    assert {problem.origin for problem in load_problems(str(config.out), "train")} == {"student"}


def test_a_student_of_another_tokenizer_cannot_write(tmp_path, tiny_teacher, monkeypatch):
    student = save_tiny(tmp_path / "student")
    with pytest.raises(EvaluationError, match="has another tokenizer than"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, writer=str(student)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "lessons.json"}, "a name that ends in .jsonl"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"temperature": 0.0}, "4 samples would all be the greedy one"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0"),
        ({"examples": 4}, "examples is 4; give 0 to 3"),
        ({"stops": ("",)}, "a stop is empty"),
        ({"splits": ("test",)}, "never for what models are scored on"),
        ({"keep": "some"}, "keep is 'some'; choose one of"),
        ({"memory_mb": 1}, "an interpreter needs at least 64 MiB"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(tmp_path, options, message):
    given = {**options, "out": tmp_path / Path(options.get("out", "lessons.jsonl"))}
    with pytest.raises(EvaluationError, match=message):
        lessons_config(tmp_path, tmp_path, **given)


def test_a_real_model_writes_reads_and_is_read(tmp_path, tiny_teacher):
    """A random teacher that knows nothing: what it wrote is kept all the same, and cached."""
    config = lessons_config(tmp_path, tiny_teacher)
    words = (
        "write-lessons", "--teacher", tiny_teacher, "--dataset", config.dataset,
        "--samples", 2, "--max-new-tokens", 12, "--batch-size", 2, "--keep", "all",
        "--no-self-check", "--out", config.out,
    )  # fmt: skip
    code, output = run(*words)
    assert code == 0, output
    assert "tokens generated" in output and "a second" in output and "What failed:" in output
    first = read_lines(config.out)
    assert len(first) > 3 and len({row["task_id"] for row in first}) == len(first)
    shutil.rmtree(config.work)
    config.out.unlink()
    code, output = run(*words)
    assert code == 0 and read_lines(config.out) == first
    code, output = run(
        "cache-teacher", "--teacher", tiny_teacher, "--dataset", config.dataset,
        "--dataset", config.out, "--split", "train", "--top-k", 8, "--tail", "mass",
        "--out", tmp_path / "c",
    )  # fmt: skip
    assert code == 0, output
    code, output = run("cache", "inspect", tmp_path / "c")
    assert f"train: 3 gold, {len(first)} teacher" in output
    with CacheReader(tmp_path / "c") as reader:
        assert reader.num_documents("train") == 3 + len(first)


def test_the_default_writes_for_training_problems_alone():
    assert LessonsConfig.splits == ("train",)
