"""What verdicts say beyond a pass rate, as texts and as numbers: against the teacher, without
contaminated problems, and what became of the completions."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from evaluation.comparison.model_row import ModelRow
from evaluation.judging.outcomes import group_outcomes
from evaluation.metrics.intervals import Interval

NARROW_COMPARISON = ("model", "pass@1 kept", "greedy", "p", "sampled")
"""Columns of `comparison_table` that a terminal has room for."""


def percent(rate: float, interval: Interval | None) -> str:
    """A share with its 95 % interval, as in `7.9% [4.7, 13.1]`."""
    text = f"{rate:.1%}"
    if interval is None:
        return text
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def comparison_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """One line for each student that met the teacher's problems; none without a teacher.

    Differences are student minus teacher in percentage points, with 95 % intervals; p is exact
    McNemar's on the greedy verdicts. The last four columns count problems.
    """
    lines = []
    for row in rows:
        found = row.comparison
        if found is None:
            continue
        lines.append(
            {
                "model": row.label,
                "pass@1 kept": _kept(found.kept_percent, found.kept_percent_interval),
                "greedy": _points(found.greedy_difference, found.greedy_difference_interval),
                "p": f"{found.mcnemar_p:.3f}" if found.mcnemar_p >= 0.001 else "<0.001",
                "sampled": _points(found.sampled_difference, found.sampled_difference_interval),
                "both": str(found.both),
                "student": str(found.only_student),
                "teacher": str(found.only_teacher),
                "neither": str(found.neither),
            }
        )
    return lines


def uncontaminated_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """Pass rates over all problems → over those that share nothing with the training documents;
    no line where that was not checked, or where none shares anything."""
    lines = []
    for row in rows:
        if row.uncontaminated_problems in (None, len(row.greedy_passed)):
            continue
        line = {
            "model": row.label,
            "clean": f"{row.uncontaminated_problems} of {len(row.greedy_passed)}",
            "greedy pass@1": _change(row.greedy_pass_at_1, row.greedy_pass_at_1_uncontaminated),
        }
        for k, rate in row.pass_at.items():
            line[f"pass@{k}"] = _change(rate, row.pass_at_uncontaminated.get(k))
        lines.append(line)
    return lines


def _change(rate: float, clean: float | None) -> str:
    return f"{rate:.1%} → " + ("–" if clean is None else f"{clean:.1%}")


def outcome_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """One line for each model: what became of its completions, and why they ended."""
    return [
        {
            "model": row.label,
            "greedy verdicts": _counts(group_outcomes(row.greedy_outcomes)),
            "sampled verdicts": _counts(group_outcomes(row.sampled_outcomes)),
            "failed at the token limit": _counts(row.failed_at_token_limit),
            "generation ended by": _counts(row.finishes),
        }
        for row in rows
    ]


def verdict_numbers(row: ModelRow) -> dict[str, Any]:
    """Comparison, clean rates and token limits as plain columns; None where not measured."""
    found = asdict(row.comparison) if row.comparison is not None else {}
    columns: dict[str, Any] = {}
    for name in ("greedy_difference", "sampled_difference", "kept_percent"):
        low, high = found.get(f"{name}_interval") or (None, None)
        columns |= {name: found.get(name), f"{name}_low": low, f"{name}_high": high}
    for name in ("mcnemar_p", "both", "only_student", "only_teacher", "neither"):
        columns[name] = found.get(name)
    columns["uncontaminated_problems"] = row.uncontaminated_problems
    columns["greedy_pass@1_uncontaminated"] = row.greedy_pass_at_1_uncontaminated
    for k in row.pass_at:
        columns[f"pass@{k}_uncontaminated"] = row.pass_at_uncontaminated.get(k)
    for kind in ("greedy", "sampled"):
        columns[f"{kind}_failed_at_token_limit"] = row.failed_at_token_limit.get(kind)
    return columns


def _kept(kept: float | None, interval: Interval | None) -> str:
    if kept is None:
        return "–"
    return f"{kept:.0f} %" + (f" [{interval[0]:.0f}, {interval[1]:.0f}]" if interval else "")


def _points(difference: float | None, interval: Interval | None) -> str:
    if difference is None or interval is None:
        return "–"
    low, high = interval
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "–"
