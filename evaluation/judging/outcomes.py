"""What became of completions, in the few kinds that a reader can act on."""

from collections import Counter
from collections.abc import Mapping, Sequence

from evaluation.generation.completions import Sample
from evaluation.sandbox.checks import Verdict

# Outcomes that stand for themselves; those with a detail after a colon are named below.
KINDS = {
    "passed": "passed",
    "syntax_error": "syntax error",
    "wrong_answer": "wrong answer",
    "timeout": "timeout",
    "memory": "memory",
    "sandbox": "sandbox denial",
    "refused_value": "refused value",
    "exit": "exit",
    "forged": "forged report",
    "empty": "empty",
    "too_large": "too large",
    "prompt_too_long": "prompt too long",
}


def outcome_kind(outcome: str) -> str:
    """The kind of an outcome: `wrong answer`, or `exception NameError` by its type."""
    name, _, detail = outcome.partition(":")
    if name == "exception":
        return f"exception {detail}"
    if name == "signal":
        return "killed by a signal"
    return KINDS.get(name, outcome)


def group_outcomes(outcomes: Mapping[str, int]) -> dict[str, int]:
    """Counts by kind: passed first, then the most frequent failure."""
    counts: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        counts[outcome_kind(outcome)] += count
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "passed", -item[1], item[0]))
    return dict(ordered)


def count_failed_at_limit(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> int:
    """Failed completions that used up their new tokens: longer ones might have passed."""
    return sum(
        sample.finish == "length" and not verdict.passed
        for sample, verdict in zip(samples, verdicts, strict=True)
    )
