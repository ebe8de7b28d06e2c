"""All parts together: the lessons, what failed, and what came of it in numbers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cache.machine.durable import write_json, write_text
from evaluation.errors import EvaluationError
from evaluation.lessons.choose import choose, read_known
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.parts import Plan
from evaluation.lessons.rows import Provenance, Solution, failed_row, lesson_row
from evaluation.lessons.stats import LessonStats, commonest_failures, stats_of

WANTED = {"passing": (True,), "failing": (False,), "all": (True, False)}


def join_parts(config: LessonsConfig, plan: Plan, provenance: Provenance) -> LessonStats:
    """Write what all parts come to.

    Raises: EvaluationError when there is nothing to keep, or a part is gone; CacheError when a
        file of `apart_from` cannot be read.
    """
    solutions, unproven, cost = _read(plan)
    kept = [s for s in solutions if s.verdict.passed in WANTED[config.keep] and s.code]
    chosen = choose(kept, read_known(config.apart_from, solutions), config.per_problem)
    stats = stats_of(
        solutions,
        chosen,
        skipped={**plan.skipped, **unproven},
        inventions=plan.inventions,
        num_samples=config.samples,
        cost=cost,
        signature=f"{provenance.writer}|{provenance.settings}|{provenance.judging}",
    )
    if config.keep == "passing":
        failed = [failed_row(s, provenance) for s in solutions if not s.verdict.passed]
        write_text(config.failed, _json_lines(failed), EvaluationError)
    speeds = {
        "tokens_per_second": stats.tokens_per_second,
        "checks_per_second": stats.checks_per_second,
    }
    write_json(config.stats, {**asdict(stats), **speeds}, EvaluationError)
    if not chosen.lessons:
        config.out.unlink(missing_ok=True)  # of the same samples, kept by another rule
        raise EvaluationError(_nothing_kept(config, stats, provenance.writer))
    lessons = [lesson_row(solution, provenance) for solution in chosen.lessons]
    write_text(config.out, _json_lines(lessons), EvaluationError)
    return stats


def _read(plan: Plan) -> tuple[list[Solution], dict[str, str], dict[str, Any]]:
    """All solutions, the problems that were not proven, and what it cost."""
    solutions: list[Solution] = []
    unproven: dict[str, str] = {}
    cost = {
        "tokens": plan.invention_tokens, "generating_seconds": plan.invention_seconds,
        "checks": 0, "checking_seconds": 0.0,
    }  # fmt: skip
    for part in plan.parts:
        drawn, judged = part.drawn(), part.judged()
        if drawn is None or judged is None:
            raise EvaluationError(f"a part of {part.folder} is gone. Give the same command again")
        questions = {question.name: question for question in part.questions}
        solutions += [
            Solution(question=questions[sample.task_id], sample=sample, verdict=verdict)
            for sample, verdict in zip(drawn.samples, judged.verdicts, strict=True)
        ]
        unproven |= {name.removeprefix("MBPP/"): why for name, why in drawn.skipped.items()}
        cost["tokens"] += drawn.tokens
        cost["generating_seconds"] += drawn.seconds
        cost["checks"] += drawn.checks + judged.checks
        cost["checking_seconds"] += drawn.check_seconds + judged.check_seconds
    return solutions, unproven, cost


def _nothing_kept(config: LessonsConfig, stats: LessonStats, writer: str) -> str:
    if not stats.samples:
        name, reason = next(iter(stats.skipped.items()))
        return (
            f"no problem of {config.dataset} can be written for; task_id {name}: {reason}. Mend "
            "the problems, or trust their tests as they are with --no-self-check"
        )
    what = f"{writer} wrote {stats.samples:,} solutions of {stats.problems:,} problems"
    if stats.known:
        return f"{what}, and all to keep are near copies of those in --apart-from. None is new"
    if config.keep == "failing":
        return f"{what}, and none to keep: {stats.passed:,} passed. No lessons were written"
    if stats.passed:
        return (
            f"{what}, and no two of them agree on the tests of an invented problem. No lessons "
            f"were written. Ask for more --samples, or for more problems with --invent"
        )
    kept = f" What failed is in {config.failed}." if config.keep == "passing" else ""
    return (
        f"{what}, and none passes: {commonest_failures(stats.outcomes)}. No lessons were written."
        f"{kept} Ask for more --samples, in another --template, or take a stronger teacher"
    )


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
