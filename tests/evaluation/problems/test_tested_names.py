import ast

import pytest

from evaluation.errors import EvaluationError
from evaluation.problems.benchmarks import load_benchmark
from evaluation.problems.tested_names import prompt_helpers, read_tests


def read(code, *tests, setup=""):
    found = read_tests(code, tests, setup)
    return found.entry_points, found.in_child


def test_functions_of_the_solution_are_asked_even_under_builtin_names():
    assert read("def sum(a, b): ...", "assert sum(1, 2) == 3") == (("sum",), False)
    assert read("def f(a): ...", "assert sorted(f([1])) == [len('a')]") == (("f",), False)
    assert read("def f(): ...\ndef g(): ...", "assert g() == f()") == (("g", "f"), False)


def test_a_function_that_no_solution_defines_is_asked_too():
    assert read("f = lambda: 1", "assert f() == 1") == (("f",), False)


def test_data_from_the_set_up_code_crosses():
    code, test = "def f(x): ...", "assert isclose(f(x), 1)"
    assert read(code, test, setup="from math import isclose\nx = [1]") == (("f",), False)


@pytest.mark.parametrize(
    ("code", "test", "setup"),
    [
        ("class N: ...\ndef f(n): ...", "assert f(n) == 1", "n = N()"),
        ("class N: ...\ndef f(n): ...", "assert f(N()) == 1", ""),
        ("def f(g): ...", "assert f(lambda x: x) == 1", ""),
        ("def f(g): ...\ndef h(): ...", "assert f(h) == 1", ""),
    ],
)
def test_tests_with_classes_and_functions_as_values_stay_beside_the_program(code, test, setup):
    assert read(code, test, setup=setup) == (("f",), True)


def test_tests_that_call_nothing_or_are_no_python_are_refused():
    with pytest.raises(
        EvaluationError, match="the tests call no function of the solution: 'assert"
    ):
        read("def f(): ...", "assert True")
    with pytest.raises(EvaluationError, match="a test or solution is no Python: .*; mend it"):
        read("def f(", "assert f() == 1")


def test_helpers_are_all_of_the_prompt_but_the_function_asked_for():
    prompt = "import math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    '''Doc.'''\n"
    assert prompt_helpers(prompt, "f") == "import math\n\ndef helper(x):\n    return x"
    assert prompt_helpers("def f(x):\n", "f") == ""
    assert prompt_helpers("no Python", "f") == ""


def test_no_humaneval_test_looks_at_an_argument_after_it_was_passed():
    """Arguments are copies: what a function does to them stays unseen by the test."""
    passed = set()
    for problem in load_benchmark("humaneval").problems:
        assert not problem.in_child
        for node in ast.walk(ast.parse(problem.test)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "candidate":
                names = {n.id for a in node.args for n in ast.walk(a) if isinstance(n, ast.Name)}
                passed |= {(problem.task_id, name) for name in names}
    # Text and numbers, which nothing can change, but for copies (32, 50) and `lst`, used once.
    assert passed == {
        *(("HumanEval/32", name) for name in ("copy", "coeffs")),
        *(("HumanEval/50", name) for name in ("copy", "encoded_str")),
        ("HumanEval/38", "encoded_str"),
        ("HumanEval/44", "x"),
        ("HumanEval/53", "x"),
        ("HumanEval/53", "y"),
        ("HumanEval/151", "lst"),
    }
