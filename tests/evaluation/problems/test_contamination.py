import json
from dataclasses import replace

import pytest

from cache.data.problems import load_problems
from cache.data.templates import TEMPLATES
from evaluation.errors import EvaluationError
from evaluation.problems.benchmarks import BenchmarkProblem, load_benchmark
from evaluation.problems.contamination import (
    contamination_remarks,
    find_overlaps,
    measure_contamination,
    split_words,
)
from tests.support.paths import EXAMPLES

PROBLEM = BenchmarkProblem(
    task_id="T/0",
    prompt='def largest_gap(numbers):\n    """Return the largest difference of neighbours."""\n',
    entry_point="largest_gap",
    preamble="",
    test="",
    canonical_solution="    return max(abs(a - b) for a, b in zip(numbers, numbers[1:]))\n",
    stop=(),
)
OTHER = replace(PROBLEM, task_id="T/1", prompt="Reverse the words of a sentence, please.\n")


def text(problem):
    return problem.prompt + problem.canonical_solution


def test_words_ignore_case_layout_and_punctuation():
    assert split_words("def Largest_gap(x):\n\t# É 2") == ["def", "largest", "gap", "x", "é", "2"]


def test_a_copied_problem_is_contaminated_in_full_and_others_by_what_they_share():
    disguised = text(PROBLEM).upper().replace("    ", "\t").replace("\n", "\r\n")
    shares, examples = find_overlaps([PROBLEM, OTHER], ["unrelated", f"# copy\n{disguised}\n# end"])
    assert shares["T/0"] == 1.0
    assert 0 < shares["T/1"] < 1  # the same solution under another prompt
    assert len(examples["T/0"].split()) == 13
    assert examples["T/0"] in " ".join(split_words(text(PROBLEM)))


def test_twelve_shared_words_are_no_contamination_and_thirteen_are():
    words = split_words(text(PROBLEM))
    assert find_overlaps([PROBLEM], [" ".join(words[:12])]) == ({}, {})
    shares, _ = find_overlaps([PROBLEM], [" ".join(words[:13])])
    assert shares == {"T/0": pytest.approx(1 / (len(words) - 12))}


def test_words_across_two_documents_do_not_count():
    words = split_words(text(PROBLEM))
    assert find_overlaps([PROBLEM], [" ".join(words[:12]), " ".join(words[12:20])]) == ({}, {})


def test_a_problem_copied_many_times_is_not_excused():
    assert find_overlaps([PROBLEM], [text(PROBLEM)] * 50)[0] == {"T/0": 1.0}


def test_problem_shorter_than_an_ngram_is_looked_for_as_a_whole():
    short = replace(PROBLEM, prompt="def f(x):\n", canonical_solution="    return x + 41\n")
    assert find_overlaps([short], ["before def f(x): return x + 41 after"])[0] == {"T/0": 1.0}
    assert find_overlaps([short], ["def f(x): return x + 42"]) == ({}, {})


def training_problems():
    """The problems that the cache of the examples was built from, as if they were a benchmark."""
    problems = load_problems(str(EXAMPLES), "train")[:24]
    texts = [TEMPLATES["instruction"](problem) for problem in problems]
    return [
        replace(PROBLEM, task_id=f"T/{i}", prompt=prompt, canonical_solution=code)
        for i, (prompt, code) in enumerate(texts)
    ]


def test_training_problems_are_found_whole_in_the_documents_of_their_cache(tiny_cache):
    found = measure_contamination(tiny_cache, training_problems())
    assert found.n == 13 and found.num_documents == 24
    assert found.contaminated == {f"T/{i}": 1.0 for i in range(24)}
    assert set(found.examples) == set(found.contaminated)


def test_humaneval_is_not_in_the_example_cache(tiny_cache):
    problems = load_benchmark("humaneval").problems
    assert measure_contamination(tiny_cache, problems).contaminated == {}


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="contamination cannot be checked: .*no cache at"):
        measure_contamination(tmp_path, [PROBLEM])


def write_run(folder, identity_hash):
    folder.mkdir()
    run = {"cache": {"path": "runs/cache", "identity_hash": identity_hash}}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_unchecked_students_are_remarked_with_the_cache_they_name(tmp_path):
    student = write_run(tmp_path / "student", "0")
    (remark,) = contamination_remarks(None, [student], 164)
    assert remark == "Contamination was not checked; --cache runs/cache does it."
    (remark,) = contamination_remarks(None, [tmp_path / "foreign"], 164)
    assert "--cache with the students' cache does it" in remark
    assert contamination_remarks(None, [], 164) == []


def test_students_of_another_cache_than_the_one_checked_are_named(tiny_cache, tmp_path):
    checked = measure_contamination(tiny_cache, [PROBLEM])
    mine = write_run(tmp_path / "mine", checked.identity_hash)
    other = write_run(tmp_path / "other", "0")
    clean, remark = contamination_remarks(checked, [mine, other, tmp_path], 1)
    assert clean.startswith("None of 1 problems share 13 words in a row with the 24 training")
    assert remark.startswith(f"{other} was trained from another cache (runs/cache)")


def test_overlap_is_remarked_with_the_worst_problem(tiny_cache):
    problems = [*training_problems(), replace(OTHER, task_id="T/24")]
    checked = measure_contamination(tiny_cache, problems)
    (remark,) = contamination_remarks(checked, [], len(problems))
    assert remark.startswith("24 of 25 problems share 13 words in a row")
    assert "(100% of its runs of 13), such as “" in remark
