"""Problems and completions for the report's browser, as JSON that a script element can hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.machine.html_page import script_json
from evaluation.judging.outcomes import outcome_kind
from evaluation.problems.benchmarks import BenchmarkProblem

MAX_BYTES = 8_000_000
# Longest text shown, in characters; a shorter one is tried only where greedy completions alone
# are too much.
TEXT_LIMITS = (4000, 1500, 500, 150)

# One line of a `.results.jsonl` file.
Verdict = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Browser:
    """What the browser of problems shows."""

    json: str
    """Safe between script tags."""
    num_completions: int
    """Completions found, embedded or not; 0 where the sample files are gone."""
    num_samples: int
    """Samples a problem, beside the greedy completion."""
    num_embedded: int
    """How many of them are here, for every model."""
    text_limit: int
    """Characters after which texts are cut."""
    num_cut: int
    """Texts cut there."""


def to_browser(
    rows: Sequence[Mapping[str, Any]],
    problems: Sequence[BenchmarkProblem],
    out: Path,
    contaminated: frozenset[str] = frozenset(),
    max_bytes: int = MAX_BYTES,
) -> Browser:
    """Prompts, completions and verdicts of all models, as many samples as the bytes allow.

    Args:
        rows: of results.json; their `sample_files` are relative to `out`. Files that are gone
            leave gaps.
        contaminated: task ids to mark.
    """
    greedy = [_read(out, row, "greedy") for row in rows]
    sampled = [_read(out, row, "sampled") for row in rows]
    found = max((len(v) for verdicts in sampled for v in verdicts.values()), default=0)
    for limit in TEXT_LIMITS:
        for count in _halvings(found):
            packed = _Packed(limit)
            packed.content = {
                "models": [{"label": r["label"], "teacher": r["is_teacher"]} for r in rows],
                "problems": [packed.problem(p, p.task_id in contaminated) for p in problems],
                "greedy": [packed.model(verdicts, problems, 1) for verdicts in greedy],
                "sampled": [packed.model(verdicts, problems, count) for verdicts in sampled],
                "passes": [_passes(verdicts, problems) for verdicts in sampled],
                "samples": count,
            }
            text = packed.dumps()
            if len(text) <= max_bytes or (limit, count) == (TEXT_LIMITS[-1], 0):
                return Browser(
                    json=text,
                    num_completions=sum(
                        len(v) for verdicts in (*greedy, *sampled) for v in verdicts.values()
                    ),
                    num_samples=found,
                    num_embedded=count,
                    text_limit=limit,
                    num_cut=packed.num_cut,
                )
    raise AssertionError("the last and smallest attempt returns")


class _Packed:
    """Texts held once: models of one family often say the same."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.num_cut = 0
        self.content: dict[str, Any] = {}
        self._texts: dict[str, int] = {}

    def problem(self, problem: BenchmarkProblem, contaminated: bool) -> dict[str, Any]:
        return {
            "id": problem.task_id,
            "prompt": self._cut(problem.prompt),
            "solution": self._cut(problem.canonical_solution),
            "test": self._cut(problem.test),
            "contaminated": contaminated,
        }

    def model(
        self,
        verdicts: Mapping[str, Sequence[Verdict]],
        problems: Sequence[BenchmarkProblem],
        count: int,
    ) -> list[list[list[int]]]:
        """By problem and sample: text, outcome, message, finish (numbers of texts), tokens."""
        return [
            [self._cell(verdict) for verdict in verdicts.get(problem.task_id, ())[:count]]
            for problem in problems
        ]

    def dumps(self) -> str:
        return script_json({**self.content, "texts": list(self._texts)})

    def _cell(self, verdict: Verdict) -> list[int]:
        outcome = verdict["outcome"]
        return [
            self._number(self._cut(verdict["completion"])),
            self._number(self._cut(outcome_kind(outcome))),
            self._number(self._cut(verdict.get("message") or "")),
            self._number(self._cut(verdict.get("finish") or "")),
            verdict.get("tokens") or 0,
        ]

    def _number(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _cut(self, text: str) -> str:
        if len(text) <= self.limit:
            return text
        self.num_cut += 1
        return f"{text[: self.limit]}\n… {len(text) - self.limit:,} characters left out"


def _read(out: Path, row: Mapping[str, Any], kind: str) -> dict[str, list[Verdict]]:
    """Verdicts of a model by task id, in the order of their samples."""
    name = row.get("sample_files", {}).get(kind)
    if name is None or not (out / name).is_file():
        return {}
    by_task: dict[str, list[Verdict]] = {}
    with (out / name).open(encoding="utf-8") as file:
        for line in file:
            verdict = json.loads(line)
            by_task.setdefault(verdict["task_id"], []).append(verdict)
    return by_task


def _passes(
    verdicts: Mapping[str, Sequence[Verdict]], problems: Sequence[BenchmarkProblem]
) -> list[list[int]]:
    """Passes and samples of each problem, whether its samples are embedded or not."""
    per_problem = [verdicts.get(problem.task_id, ()) for problem in problems]
    return [[sum(verdict["passed"] for verdict in row), len(row)] for row in per_problem]


def _halvings(count: int) -> list[int]:
    """The count, half of it, and so on to 0."""
    halvings = [count]
    while halvings[-1]:
        halvings.append(halvings[-1] // 2)
    return halvings
