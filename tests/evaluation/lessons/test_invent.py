"""Problems that a model invents, kept where its solutions agree and no benchmark has them."""

import pytest
from transformers import AutoTokenizer

from cache.data.problems import load_problems
from evaluation.errors import EvaluationError
from evaluation.lessons import invent
from evaluation.lessons.invent import read_invention
from evaluation.lessons.write import write_lessons
from evaluation.problems.benchmarks import load_benchmark
from tests.support.scripted_writer import (
    PROBLEMS,
    lessons_config,
    read_lines,
    save_problems,
    script,
)

TWICE = (
    " Write a function to double a number.\n\nTest list:\n"
    "assert twice(1) == 2\nassert twice( 4 )==8\n"
)
SCORED = {
    "task_id": 11,
    "text": "Write a function to find the minimum of a list.",
    "code": "def least(values):\n    return min(values)",
    "test_list": ["assert least([3, 1]) == 1", "assert least([5]) == 5"],
}


def invented(tests, text="Do it."):
    return read_invention(f"{text}\n\nTest list:\n" + "\n".join(tests))


def test_a_problem_is_its_sentence_and_its_asserts_written_anew():
    assert read_invention(TWICE) == (
        "Write a function to double a number.",
        ("assert twice(1) == 2", "assert twice(4) == 8"),
    )


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (["assert f(1) == 1"], "too few tests"),
        (["assert f(1) == 1"] * 3, "too few tests"),
        (["assert f(1) == 1", "assert g(2) == 2"], "tests of other than one new function"),
        (["assert abs(1) == 1", "assert abs(-2) == 2"], "tests of other than one new function"),
        (["assert f(1) == 5", "assert f(2) == 5"], "tests that expect one value"),
        *(
            ([line, "assert f(2) == 3"], "tests of other than literal values")
            for line in (
                "assert f(1) == g(1)",
                "assert f(x) == 1",
                "assert f(1) != 1",
                "assert f(1)",
                "assert f() == 1",
                "assert f(1) == f(1) == 1",
                "assert f(__import__('os').abort()) == 1",
                "assert f(1) == 1 or exit()",
                "assert f(1) == 1; exit()",
                "assert f(a=1) == 1",
                "assert a.f(1) == 1",
                "assert f(1) == " + "(" * 250 + ")" * 250,
                "assert f(1) == " + "1" * 300,
                "assert f(1) ==",
                "assert f('\0') == 1",
            )
        ),
    ],
)  # fmt: skip
def test_nothing_but_calls_of_one_function_with_literals_becomes_a_test(tests, reason):
    assert invented(tests) == reason


@pytest.mark.parametrize("text", ["", "Do it.", " \nTest list:\nassert f(1) == 1"])
def test_what_is_not_in_the_form_is_none(text):
    assert read_invention(text) == "not in the form asked for"


def right(name, sample):
    """One invention; then a solution, the same again, and another that agrees."""
    if name == "invention":
        return TWICE
    return ("def twice(x):\n    return 2 * x", "def twice(y):\n    return 2 * y",
            "def twice(x):\n    return x + x", "")[sample]  # fmt: skip


def test_an_invented_problem_is_kept_where_two_different_solutions_agree(
    tmp_path, tiny_teacher, monkeypatch
):
    drawn = script(monkeypatch, right)
    save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, SCORED])
    config = lessons_config(tmp_path, tiny_teacher, invent=3, self_check=True)
    stats = write_lessons(config).stats
    rows = read_lines(config.out)
    assert [row["provenance"]["sample"] for row in rows] == [0, 2]
    assert {row["text"] for row in rows} == {"Write a function to double a number."}
    assert rows[0]["test_list"] == ["assert twice(1) == 2", "assert twice(4) == 8"]
    assert all(row["provenance"]["invented"] for row in rows)
    assert {row["problem_id"] for row in rows} <= {601, 602, 603}
    assert len(load_problems(str(config.out), "train")) == 2
    assert stats.inventions == {
        "asked for": 3, "a copy of another problem": 2, "passed by no solution": 0,
        "passed by one solution alone": 0, "kept": 1,
    }  # fmt: skip
    assert stats.tokens == (3 + 4) * 7
    assert drawn.count("invention:0") == 1
    drawn.clear()
    config.out.unlink()
    write_lessons(config)
    assert drawn == [] and read_lines(config.out) == rows  # nothing is invented again


def test_what_one_solution_alone_passes_is_left_out(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, lambda name, sample: right(name, min(sample, 1)))
    save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, SCORED])
    with pytest.raises(EvaluationError, match="no two of them agree on the tests of an invented"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, invent=1))


def test_tests_that_a_trivial_body_passes_are_left_out(tmp_path, tiny_teacher, monkeypatch):
    same = TWICE.replace("== 2", "== 1").replace("==8", "== 4")
    script(monkeypatch, lambda name, sample: same if name == "invention" else "")
    save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, SCORED])
    config = lessons_config(tmp_path, tiny_teacher, invent=1, self_check=True)
    with pytest.raises(EvaluationError, match="passed by a body of `return its first argument`"):
        write_lessons(config)


def of_humaneval():
    problem = load_benchmark("humaneval").problems[0]
    return problem.prompt.partition('"""')[2].partition(">>>")[0]


def test_what_stands_in_a_benchmark_is_left_out(tmp_path, tiny_teacher, monkeypatch):
    found = [
        (SCORED["text"].upper(), "assert f([2]) == 2"),
        ("Find the smallest.", SCORED["test_list"][0].replace("least(", "least( ")),
        (of_humaneval(), "assert f([3]) == 3"),
    ]

    def answer(name, number):
        sentence, test = found[number]
        function = test.split()[1].partition("(")[0]
        return f"{sentence}\n\nTest list:\n{test}\nassert {function}([9, {number}]) == 7"

    script(monkeypatch, answer)
    save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, SCORED])
    with pytest.raises(EvaluationError, match="3 problems, and none can be used: contaminated 3"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, invent=3))


def test_without_the_benchmarks_nothing_is_invented(tmp_path, tiny_teacher, monkeypatch):
    script(monkeypatch, right)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    with pytest.raises(EvaluationError, match="compared with HumanEval and MBPP's test split"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, invent=1))


@pytest.mark.parametrize(
    "options", [{"keep": "all"}, {"samples": 1}, {"splits": ("train", "validation")}]
)
def test_inventing_needs_agreement_and_is_for_training(tmp_path, tiny_teacher, options):
    with pytest.raises(EvaluationError, match="invented"):
        lessons_config(tmp_path, tiny_teacher, invent=1, **options)


def test_a_problem_is_made_after_three_others_that_its_number_chooses(
    tmp_path, tiny_teacher, monkeypatch
):
    asked = []

    def draw_each(model, tokenizer, requests, settings, batch_size):
        asked.extend(requests)
        yield from ()

    script(monkeypatch, right)
    monkeypatch.setattr(invent, "draw_each", draw_each)
    more = [{**PROBLEMS[0], "task_id": 700 + n, "text": f"Add {n}."} for n in range(20)]
    save_problems(tmp_path / "problems.jsonl", [*more, SCORED])
    with pytest.raises(EvaluationError, match="not in the form asked for 9"):
        write_lessons(lessons_config(tmp_path, tiny_teacher, invent=9))
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    prompts = [tokenizer.decode(request.prompt_ids) for request in asked]
    assert len(set(prompts)) == 9 and [request.sample for request in asked] == list(range(9))
    for prompt in prompts:
        assert prompt.count("Test list:\nassert add_one(1) == 2") == 3
        assert prompt.endswith("\n\n\nInstruction:\n") and SCORED["text"] not in prompt
        assert sum(row["text"] in prompt for row in more) == 3
