"""The example problems hold what their README promises, and their asserts tell right from wrong."""

import ast
import json
import subprocess
import sys

import pytest

from cache.data.problems import load_problems
from tests.support.paths import EXAMPLES

FIELDS = {
    "task_id": int,
    "text": str,
    "code": str,
    "test_list": list,
    "test_setup_code": str,
    "challenge_test_list": list,
}
SPLIT_RANGES = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}

# Reads [[code, asserts], ...] and writes, for each program, which of its asserts pass.
RUNNER = """
import json, sys

def passes(namespace, statement):
    try:
        exec(statement, namespace)
    except Exception:
        return False
    return True

verdicts = []
for code, asserts in json.load(sys.stdin):
    namespace = {"__name__": "solution"}
    exec(code, namespace)
    verdicts.append([passes(namespace, statement) for statement in asserts])
json.dump(verdicts, sys.stdout)
"""


def run_programs(programs: list[tuple[str, list[str]]]) -> list[list[bool]]:
    """Which asserts pass for each (code, asserts), all run in one child process."""
    child = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def only_function(code: str) -> ast.FunctionDef:
    """The one function that a solution defines at its top level."""
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    assert len(functions) == 1, f"one top-level function expected in:\n{code}"
    return functions[0]


def without_body(code: str) -> str:
    """The solution with the body of its function replaced by `pass`."""
    function = only_function(code)
    function.body = [ast.Pass()]
    kept = [node for node in ast.parse(code).body if not isinstance(node, ast.FunctionDef)]
    return ast.unparse(ast.Module(body=[*kept, function], type_ignores=[]))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_row_has_the_mbpp_schema(rows):
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == FIELDS, row["task_id"]
        assert len(row["test_list"]) == 3
        assert all(statement.startswith("assert ") for statement in row["test_list"])
        assert row["test_setup_code"] == "" and row["challenge_test_list"] == []


def test_texts_ask_for_a_function_and_no_two_problems_are_alike(rows):
    assert len(rows) >= 64
    assert all(row["text"].startswith("Write a ") for row in rows)
    for name in ("task_id", "text", "code"):
        assert len({row[name] for row in rows}) == len(rows), name
    names = [only_function(row["code"]).name for row in rows]
    assert len(set(names)) == len(names)


def test_task_ids_fill_the_splits_as_documented(rows):
    sizes = {
        split: sum(row["task_id"] in task_ids for row in rows)
        for split, task_ids in SPLIT_RANGES.items()
    }
    assert sizes == {"prompt": 0, "test": 6, "validation": 10, "train": 56}
    assert sum(sizes.values()) == len(rows)


@pytest.mark.parametrize(
    ("split", "num_problems"), [("test", 6), ("validation", 10), ("train", 56)]
)
def test_loader_reads_each_split(split, num_problems):
    assert len(load_problems(str(EXAMPLES), split)) == num_problems


def test_solutions_are_short_stdlib_code_with_unix_line_ends(rows):
    for row in rows:
        code = row["code"]
        assert "\r" not in code and "\t" not in code
        assert 3 <= len(code.splitlines()) <= 20, row["task_id"]
        for node in ast.walk(ast.parse(code)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert set(modules) <= sys.stdlib_module_names, row["task_id"]


def test_asserts_call_the_function_that_the_solution_defines(rows):
    for row in rows:
        name = only_function(row["code"]).name
        assert all(f"{name}(" in statement for statement in row["test_list"]), row["task_id"]


def test_every_solution_passes_its_asserts(rows):
    verdicts = run_programs([(row["code"], row["test_list"]) for row in rows])
    failed = [row["task_id"] for row, passed in zip(rows, verdicts, strict=True) if not all(passed)]
    assert failed == []


def test_a_function_without_its_body_fails_an_assert_of_every_problem(rows):
    verdicts = run_programs([(without_body(row["code"]), row["test_list"]) for row in rows])
    unnoticed = [row["task_id"] for row, passed in zip(rows, verdicts, strict=True) if all(passed)]
    assert unnoticed == []


def test_the_held_out_problems_are_sound_and_none_of_the_others(rows):
    path = EXAMPLES.with_name("held-out.jsonl")
    held_out = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(load_problems(str(path), "test")) == len(held_out) == 30
    names = {only_function(row["code"]).name for row in [*held_out, *rows]}
    assert len(names) == len(held_out) + len(rows)
    programs = [(row["code"], row["test_list"]) for row in held_out]
    assert all(all(passed) for passed in run_programs(programs))
    empty = [(without_body(row["code"]), row["test_list"]) for row in held_out]
    assert not any(all(passed) for passed in run_programs(empty))
