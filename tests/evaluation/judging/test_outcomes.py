import re
from dataclasses import replace

from evaluation.generation.completions import Sample
from evaluation.judging.outcomes import KINDS, count_failed_at_limit, group_outcomes, outcome_kind
from evaluation.sandbox.checks import Verdict
from tests.support.paths import ROOT

SANDBOX = ROOT / "evaluation" / "sandbox" / "checks.py"
SAMPLE = Sample(task_id="T/0", sample=0, completion="pass", finish="stop")


def test_every_outcome_has_a_kind_and_exceptions_keep_their_type():
    assert outcome_kind("exception:NameError") == "exception NameError"
    assert outcome_kind("prompt_too_long") == "prompt too long"
    assert outcome_kind("signal:SIGSEGV") == "killed by a signal"
    assert outcome_kind("sandbox") == "sandbox denial"


def test_every_outcome_that_a_verdict_may_have_is_named():
    documented = set(re.findall(r"^    - (\w+)", SANDBOX.read_text(), flags=re.MULTILINE))
    assert len(documented) >= 12
    assert documented - {"exception", "signal"} == set(KINDS)


def test_groups_start_with_what_passed_then_the_most_frequent():
    outcomes = {
        "wrong_answer": 5,
        "exception:NameError": 9,
        "signal:SIGSEGV": 1,
        "signal:SIGABRT": 2,
        "passed": 1,
    }
    assert list(group_outcomes(outcomes).items()) == [
        ("passed", 1),
        ("exception NameError", 9),
        ("wrong answer", 5),
        ("killed by a signal", 3),
    ]


def test_failures_at_the_token_limit_are_counted_and_passes_there_are_not():
    at_limit = replace(SAMPLE, finish="length")
    failed = Verdict(passed=False, outcome="syntax_error", seconds=0.0)
    passed = Verdict(passed=True, outcome="passed", seconds=0.0)
    samples, verdicts = [at_limit, at_limit, SAMPLE], [failed, passed, failed]
    assert count_failed_at_limit(samples, verdicts) == 1
