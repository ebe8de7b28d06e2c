import json
import re
from dataclasses import replace

import pytest

from evaluation.config import SandboxLimits
from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample
from evaluation.judging.scoring import judge, save_verdicts, summarize
from evaluation.judging.self_check import SelfCheck, check_benchmark
from evaluation.judging.trivial import NUM_CONSTANTS, TRIVIAL_BODIES, trivial_answers
from evaluation.problems.benchmarks import Benchmark, BenchmarkProblem, load_benchmark

LIMITS = SandboxLimits(timeout=5)
PROBLEM = BenchmarkProblem(
    task_id="T/0",
    prompt="def f(x):\n",
    entry_point="f",
    preamble="def f(x):\n",
    test="assert f(1) == 1\n",
    canonical_solution="    return x\n",
    stop=("\ndef",),
)


def sample(completion, number=0, finish="stop", task_id="T/0"):
    return Sample(task_id=task_id, sample=number, completion=completion, finish=finish)


def benchmark(*problems):
    return Benchmark(name="mine", source="here", problems=problems)


def test_samples_are_judged_in_order_and_empty_ones_without_a_run():
    samples = [
        sample("    return x\n"),
        sample("  \n", 1),
        sample("", 2, "prompt_too_long"),
        sample("    return 2\n", 3),
    ]
    seen = []
    verdicts = judge(samples, [PROBLEM], LIMITS, 2, lambda: seen.append(1))
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes == ["passed", "empty", "prompt_too_long", "wrong_answer"]
    assert len(seen) == 4


def test_scores_count_problems_not_samples():
    other = replace(PROBLEM, task_id="T/1")
    samples = [sample("    return x\n", n) for n in range(2)]
    samples += [sample("    return 0\n", n, task_id="T/1") for n in range(2)]
    scores = summarize(samples, judge(samples, [PROBLEM, other], LIMITS, 2), (1, 2))
    assert scores.pass_at == {1: 0.5, 2: 0.5}
    assert scores.outcomes == {"passed": 2, "wrong_answer": 2}
    assert (scores.num_problems, scores.num_samples) == (2, 4)


def test_verdicts_stand_beside_their_samples(tmp_path):
    samples = [sample("    return x\n")]
    save_verdicts(tmp_path / "v.jsonl", samples, judge(samples, [PROBLEM], LIMITS, 1))
    (line,) = map(json.loads, (tmp_path / "v.jsonl").open())
    assert line["completion"] == "    return x\n" and line["passed"] and line["outcome"] == "passed"


def test_check_counts_what_a_sound_benchmark_accepts():
    whole = load_benchmark("humaneval")
    seen = []
    checked = check_benchmark(replace(whole, problems=whole.problems[:6]), LIMITS, 2, seen.append)
    bodies = (*TRIVIAL_BODIES, "return False")  # the only constant that two of the six expect
    nothing = dict.fromkeys(bodies, 0)
    assert checked == SelfCheck(canonical=6, trivial=nothing, num_problems=6, remarks=())
    assert seen == [6 * 7 + 2] * (6 * 7 + 2)


def test_check_refuses_a_benchmark_whose_own_solution_fails():
    broken = replace(PROBLEM, canonical_solution="    return missing\n")
    with pytest.raises(EvaluationError, match="1 canonical solutions do not pass: T/0 .*NameError"):
        check_benchmark(benchmark(broken), LIMITS, 2)


def test_check_refuses_tests_that_check_nothing():
    # The notebook's mistake: `check` is defined, and nobody calls it.
    uncalled = replace(PROBLEM, test="def check(f):\n    assert f(1) == 1\n")
    with pytest.raises(EvaluationError, match="1 problems are passed by a body of `pass`: T/0"):
        check_benchmark(benchmark(uncalled), LIMITS, 2)


@pytest.mark.parametrize("preamble", ["def f(x):\n", ""])
@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("None", "pass"),
        ("0", "return 0"),
        ("[]", "return []"),
        ("True", "return True"),
        ("x", "return its first argument"),
    ],
)
def test_check_tries_every_trivial_body(value, body, preamble):
    test = f"x = 7\nassert f(x) == {value}"
    solution = f"    return {value}\n" if preamble else f"def f(x):\n    return {value}\n"
    weak = replace(PROBLEM, test=test, preamble=preamble, canonical_solution=solution)
    with pytest.raises(EvaluationError, match=re.escape(f"passed by a body of `{body}`: T/0")):
        check_benchmark(benchmark(weak), LIMITS, 2)


def test_check_tries_the_constants_that_several_problems_expect():
    weak = replace(PROBLEM, test="assert f(1) == 2\nassert f(5) == 2")
    sound = replace(PROBLEM, task_id="T/1", test="assert f(1) == 2\nassert f(3) == 4")
    with pytest.raises(EvaluationError, match="passed by a body of `return 2`: T/0"):
        check_benchmark(
            benchmark(
                replace(weak, canonical_solution="    return 2\n"),
                replace(sound, canonical_solution="    return x + 1\n"),
            ),
            LIMITS,
            2,
        )


def test_constants_are_tried_where_they_are_expected_the_commonest_first():
    expecting = [{n, n + 1, "-1", "a"} for n in range(20)]
    problems = [
        replace(PROBLEM, task_id=f"T/{i}", test="\n".join(f"assert f(1) == {v!r}" for v in values))
        for i, values in enumerate(expecting)
    ]
    answers = trivial_answers(problems)
    constants = [body for body in answers if body not in TRIVIAL_BODIES]
    assert constants[:2] == ["return '-1'", "return 'a'"] and len(constants) == NUM_CONSTANTS
    assert [problem.task_id for problem, _ in answers["return 3"]] == ["T/2", "T/3"]
    assert answers["return 3"][0][1] == "    return 3\n"


def test_check_remarks_on_slow_solutions_and_on_stops_in_solutions():
    right = replace(PROBLEM, test="assert f(1) == 2\nassert f(2) == 3\n")
    slow = replace(right, canonical_solution="    import time; time.sleep(0.4)\n    return x + 1\n")
    stopped = replace(
        right, task_id="T/1", canonical_solution="    return g(x)\n\ndef g(x):\n    return x + 1\n"
    )
    remarks = check_benchmark(benchmark(slow, stopped), SandboxLimits(timeout=0.2), 2).remarks
    assert "T/0: its canonical solution takes 0." in remarks[0]
    assert remarks[1] == "T/1: its canonical solution contains a stop sequence"
