"""Sample files to scores: judge, count, say what it means. No model is needed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cache.errors import CacheError
from cache.machine.durable import make_directory, write_text
from evaluation.config import ScoreConfig
from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample
from evaluation.judging.extract import extract_code
from evaluation.judging.outcomes import count_failed_at_limit, group_outcomes
from evaluation.judging.progress import Stages
from evaluation.judging.sample_files import read_samples
from evaluation.judging.scoring import judge, save_verdicts, summarize
from evaluation.judging.self_check import prove_benchmark
from evaluation.metrics.intervals import Interval
from evaluation.problems.benchmarks import (
    Benchmark,
    BenchmarkProblem,
    load_benchmark,
    remark_on_judging,
)
from evaluation.sandbox.checks import Verdict, sandbox_level

USUAL_KS = (1, 10, 100)


@dataclass(frozen=True, kw_only=True)
class SampleScore:
    """What a sample file is worth."""

    pass_at: dict[str, float]
    """pass@k in [0, 1] by k, the mean over problems."""
    intervals: dict[str, Interval]
    """95 % by k, over problems; Wilson's with one sample a problem."""
    outcomes: dict[str, int]
    """Number of samples by outcome, most frequent first."""
    failed_at_token_limit: int
    """Failed samples whose `finish` says that they were cut off; 0 where the file says nothing."""
    num_problems: int
    num_samples: int
    samples_per_problem: tuple[int, int]
    """Fewest and most."""
    signature: str
    """The conditions, in one line."""
    benchmark_source: str
    notes: tuple[str, ...]
    """What a reader of the score should know."""
    config: dict[str, Any]
    """The whole ScoreConfig."""
    date: str
    """UTC, ISO 8601."""


def score_samples(config: ScoreConfig) -> SampleScore:
    """Judge the completions as they stand, or with `extract` the code that is found in them.

    Cutting at stop sequences is up to who wrote them.

    Writes the samples with their verdicts to `<name>.results.jsonl` beside the file, and the
    score to `<name>.score.json`.

    Raises: EvaluationError when the file is malformed, names unknown problems, or lacks some;
        when a k exceeds the samples; when the benchmark fails its self-check.
    """
    _require_writable(config.samples.parent)
    benchmark, samples = _scored_problems(config)
    counts = Counter(sample.task_id for sample in samples)
    fewest, most = min(counts.values()), max(counts.values())
    ks = _choose_ks(config, fewest)
    notes, verdicts = _check_and_judge(config, benchmark, samples)
    scores = summarize(samples, verdicts, ks)
    result = SampleScore(
        pass_at={str(k): rate for k, rate in scores.pass_at.items()},
        intervals={str(k): interval for k, interval in scores.intervals.items()},
        outcomes=scores.outcomes,
        failed_at_token_limit=count_failed_at_limit(samples, verdicts),
        num_problems=len(counts),
        num_samples=len(samples),
        samples_per_problem=(fewest, most),
        signature=(
            f"{benchmark.name}|problems:{len(counts)}"
            f"{'' if config.extract == 'nothing' else f'|extract:{config.extract}'}"
            f"|{config.limits.signature}"
            f"|sandbox:{sandbox_level(config.allow_weak_sandbox)}"
        ),
        benchmark_source=benchmark.source,
        notes=tuple(notes),
        config=json.loads(json.dumps(asdict(config), default=str)),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    stem = config.stem
    save_verdicts(stem.with_name(f"{stem.name}.results.jsonl"), samples, verdicts)
    text = json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n"
    write_text(stem.with_name(f"{stem.name}.score.json"), text, EvaluationError)
    return result


def _check_and_judge(
    config: ScoreConfig, benchmark: Benchmark, samples: Sequence[Sample]
) -> tuple[list[str], list[Verdict]]:
    """The self-check's remarks, and the samples' verdicts."""
    remarks = [f"Skipped {problem}" for problem in benchmark.skipped]
    remarks += remark_on_judging(benchmark.problems)
    with Stages() as stages:
        checked = prove_benchmark(benchmark, config, stages)
        remarks += checked.remarks if checked else ()
        verdicts = judge(
            samples,
            benchmark.problems,
            config.limits,
            config.workers,
            lambda: stages(config.samples.name, "run", 1, len(samples)),
        )
    return remarks, verdicts


def _require_writable(folder: Path) -> None:
    """Before the judging, which may take hours."""
    try:
        make_directory(folder)
    except CacheError as error:
        raise EvaluationError(
            f"{folder} cannot be written to, and verdicts go beside the samples. Copy the samples "
            "to a folder of yours"
        ) from error


def _extracted(sample: Sample, problem: BenchmarkProblem) -> Sample:
    code, is_function = extract_code(sample.completion, problem.entry_point, problem.preamble)
    if is_function and not sample.whole:
        code = f"    pass\n\n{code}"  # the prompt ends in the function's head; this one replaces it
    return replace(sample, completion=code, raw=sample.completion)


def _scored_problems(config: ScoreConfig) -> tuple[Benchmark, list[Sample]]:
    """The problems that the samples are of, and the samples, without what the benchmark skips."""
    benchmark = load_benchmark(config.benchmark, dataset=config.dataset, template=config.template)
    samples = read_samples(config.samples, benchmark)
    skipped = {text.partition(":")[0] for text in benchmark.skipped}
    samples = [sample for sample in samples if sample.task_id not in skipped]
    if not samples:
        raise EvaluationError(
            f"{config.samples} has samples of skipped problems alone: "
            f"{', '.join(sorted(skipped))}. Give samples of others, too"
        )
    known = {problem.task_id for problem in benchmark.problems}
    found = {sample.task_id for sample in samples}
    if len(found) < len(known) and not config.partial:
        raise EvaluationError(
            f"{config.samples} has samples of {len(found)} of the {len(known)} problems of "
            f"{config.benchmark}. A score over all needs all; --partial scores those that are there"
        )
    problems = tuple(problem for problem in benchmark.problems if problem.task_id in found)
    if config.extract == "code":
        by_id = {problem.task_id: problem for problem in problems}
        samples = [_extracted(sample, by_id[sample.task_id]) for sample in samples]
    return replace(benchmark, problems=problems), samples


def _choose_ks(config: ScoreConfig, fewest: int) -> tuple[int, ...]:
    if not config.ks:
        return tuple(k for k in USUAL_KS if k <= fewest)
    if max(config.ks) > fewest:
        raise EvaluationError(
            f"pass@{max(config.ks)} needs at least {max(config.ks)} samples per problem, and "
            f"{config.samples} has as few as {fewest}. Drop that --k, or draw more samples"
        )
    return config.ks


def to_rich_score(score: SampleScore) -> Group:
    """The score for a terminal: pass@k with intervals, then what became of the samples."""
    rates = Table(box=SIMPLE, collapse_padding=True)
    for name in ("", "score", "95 % interval"):
        rates.add_column(name, justify="right")
    for k, rate in score.pass_at.items():
        low, high = score.intervals[k]
        rates.add_row(f"pass@{k}", f"{rate:.1%}", f"{low:.1%} – {high:.1%}")
    fewest, most = score.samples_per_problem
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    title = f"{score.num_samples} samples of {score.num_problems} problems, {each} each"
    outcomes = Table(box=SIMPLE, collapse_padding=True)
    outcomes.add_column("outcome")
    outcomes.add_column("samples", justify="right")
    outcomes.add_column("share", justify="right")
    for kind, count in group_outcomes(score.outcomes).items():
        outcomes.add_row(Text(kind), str(count), f"{count / score.num_samples:.1%}")
    if score.failed_at_token_limit:
        count = score.failed_at_token_limit
        share = f"{count / score.num_samples:.1%}"
        outcomes.add_row("of the failed, at the token limit", str(count), share)
    notes = [Text(f"Note: {note}") for note in score.notes]
    return Group(Text(score.signature), rates, Text(title), outcomes, *notes)
