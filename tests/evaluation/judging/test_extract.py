import pytest

from evaluation.judging.extract import extract_code

BODY = "    return x + y\n"
WHOLE = 'def add(x, y):\n    """Sum."""\n    return x + y\n'
PROMPT = "def add(x, y):\n"


@pytest.mark.parametrize(
    "answer",
    [
        BODY,
        f"```python\n{BODY}```\n",
        f"```\n{BODY}```",
        f"{BODY}```\n",
        f"~~~py\n{BODY}",
        f"{BODY}\nThis function returns the sum.\n",
        f"Sure! Here you are:\n\n```python\n{BODY}```\nThis adds (quickly).",
    ],
)
def test_the_body_is_found_in_an_answer(answer):
    code, is_function = extract_code(answer, "add", PROMPT)
    assert code.rstrip() == BODY.rstrip() and not is_function


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        f"```python\n{WHOLE}```",
        f"Use it so:\n```python\nadd(1, 2)\n```\nIt is\n```python\n{WHOLE}```\nDone.",
        f"Sure! Here is the code:\n\n{WHOLE}\nNote (important): it adds.\nadd it yourself",
        f"From what I see, you need\n\n{WHOLE}",
    ],
)
def test_the_function_is_found_in_an_answer(answer):
    code, is_function = extract_code(answer, "add", PROMPT)
    assert code.rstrip() == WHOLE.rstrip() and is_function


def test_code_around_the_function_is_kept():
    code = "import math\nN: int = 3\na, b = 1, 2\n\n@cache\ndef add(x, y):\n    return x\n"
    code += "\nadd(\n    1,\n)\n"
    assert extract_code(code, "add", PROMPT) == (code, True)


def test_whole_functions_need_no_replacing_where_answers_are_whole_functions():
    assert extract_code(f"```\n{WHOLE}```", "add", "") == (WHOLE, False)


@pytest.mark.parametrize("answer", ["I cannot help with that.", "return x + y\n", ""])
def test_an_answer_in_which_nothing_looks_like_code_is_left_as_it_is(answer):
    assert extract_code(answer, "add", PROMPT) == (answer, False)
