import json

import pytest

from evaluation.errors import EvaluationError
from evaluation.judging.sample_files import read_samples
from evaluation.problems.benchmarks import Benchmark

HUMANEVAL = Benchmark(
    name="humaneval", source="here", problems=(), task_ids=("HumanEval/0", "HumanEval/1")
)
MBPP = Benchmark(name="mbpp", source="here", problems=(), task_ids=("MBPP/11", "MBPP/12"))


def read(tmp_path, text, benchmark=HUMANEVAL):
    path = tmp_path / "samples.jsonl"
    path.write_text(text if isinstance(text, str) else "".join(json.dumps(r) + "\n" for r in text))
    return [(s.task_id, s.sample, s.completion, s.whole) for s in read_samples(path, benchmark)]


def test_samples_of_human_eval_are_numbered(tmp_path):
    rows = [{"task_id": "HumanEval/0", "completion": text} for text in "ab"]
    found = [("HumanEval/0", 0, "a", False), ("HumanEval/0", 1, "b", False)]
    assert read(tmp_path, rows) == found
    assert read(tmp_path, "\ufeff" + json.dumps(rows[0])) == found[:1]


def test_solutions_of_evalplus_are_whole_programs(tmp_path):
    rows = [{"task_id": "Mbpp/12", "solution": "def f(): pass", "_identifier": "x"}]
    assert read(tmp_path, rows, MBPP) == [("MBPP/12", 0, "def f(): pass", True)]


@pytest.mark.parametrize("name", [12, "12", "MBPP/12", "mbpp/12"])
def test_numbers_name_problems_of_mbpp(tmp_path, name):
    assert read(tmp_path, [{"task_id": name, "completion": "a"}], MBPP)[0][0] == "MBPP/12"


def test_generations_of_bigcode_are_in_the_benchmarks_order(tmp_path):
    text = json.dumps([["a", "b"], ["c"]])
    assert read(tmp_path, text, MBPP) == [
        ("MBPP/11", 0, "a", True),
        ("MBPP/11", 1, "b", True),
        ("MBPP/12", 0, "c", True),
    ]


def test_fields_of_other_tools_do_not_pass_for_ours(tmp_path):
    row = {"task_id": "HumanEval/0", "completion": "a", "sample": -1, "tokens": "9", "raw": 1}
    assert read(tmp_path, [row]) == [("HumanEval/0", 0, "a", False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 1 is not JSON"),
        ('{"task_id": "HumanEval/0"}', "line 1 is no sample; need an object with a task_id and"),
        ('{"task_id": 0, "completion": "a"}', "line 1 is no sample"),
        ('{"task_id": true, "completion": "a"}', "line 1 is no sample"),
        ("7\n", "line 1 holds a int; need one JSON object a line"),
        ("", "holds no sample"),
        ('{"tokens": ' + "9" * 5000 + "}", "line 1 holds an integer of too many digits"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1 is nested too deep"),
        ('{"task_id": "HumanEval/7", "completion": "a"}', "1 problems that humaneval does not"),
        ('{"task_id": "' + "x" * 9000 + '", "completion": "a"}', "such as x{80}\\. Name"),
        ('[["a"], "b"]', "is a JSON list, and not of generations"),
        ('[["a"], ["b"], ["c"]]', "generations of 3 problems, and humaneval has 2"),
    ],
)
def test_malformed_file_is_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(EvaluationError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["absent.jsonl", "no.jsonl.gz"])
def test_unreadable_file_is_refused(tmp_path, name):
    (tmp_path / "no.jsonl.gz").write_text("no gzip")
    with pytest.raises(EvaluationError, match=f"{name} cannot be read"):
        read_samples(tmp_path / name, HUMANEVAL)
