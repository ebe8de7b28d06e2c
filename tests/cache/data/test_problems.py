"""Rows of MBPP's schema, and further solutions of their problems."""

import json
from dataclasses import asdict

import pytest

from cache.data.problems import dataset_sha256, load_problems, read_problems
from cache.errors import CacheError
from cache.machine.durable import json_sha256
from tests.support.paths import EXAMPLES

ROW = {"task_id": 601, "text": "Say a.", "code": "def a(): return 1", "test_list": ["assert a()"]}
FURTHER = {**ROW, "task_id": 601_000_000_007, "problem_id": 601, "origin": "teacher"}


def saved(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_further_solution_is_in_the_split_of_its_problem_whatever_its_number(tmp_path, split):
    problem_id = {"train": 601, "validation": 511, "test": 11}[split]
    path = saved(tmp_path / "p.jsonl", {**FURTHER, "task_id": 700, "problem_id": problem_id})
    assert [p.task_id for p in load_problems(path, split)] == [700]
    for other in {"train", "validation", "test"} - {split}:
        assert read_problems(path, other) == []


def test_a_number_outside_of_all_ranges_without_a_problem_is_in_no_split(tmp_path):
    path = saved(tmp_path / "p.jsonl", ROW, {**ROW, "task_id": 601_000_000_007})
    assert [p.task_id for p in load_problems(path, "train")] == [601]


def test_the_hash_of_a_dataset_without_further_solutions_is_what_it_was_before_there_were_any():
    problems = load_problems(str(EXAMPLES), "train")
    known = ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list")
    before = [{name: asdict(problem)[name] for name in known} for problem in problems]
    assert dataset_sha256(problems) == json_sha256(before)


def test_who_wrote_a_solution_and_of_what_is_in_the_hash(tmp_path):
    hashes = {
        dataset_sha256(load_problems(saved(tmp_path / "p.jsonl", {**FURTHER, **changes}), "train"))
        for changes in ({}, {"origin": "student"}, {"origin": None}, {"problem_id": 602})
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_id": "601"}, "line 1: field 'problem_id' must be int, found str"),
        ({"problem_id": True}, "field 'problem_id' must be int, found bool"),
        ({"origin": "me"}, "field 'origin' is 'me'; it is one of gold, teacher, student"),
        ({"origin": ["gold"]}, "field 'origin' is"),
    ],
)
def test_malformed_marks_are_refused(tmp_path, changes, message):
    with pytest.raises(CacheError, match=message):
        load_problems(saved(tmp_path / "p.jsonl", {**FURTHER, **changes}), "train")
