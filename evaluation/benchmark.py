"""The whole comparison: every model under the same conditions, and the report."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import make_directory
from cache.machine.lock import writer_lock
from cache.machine.precision import resolve_dtype
from evaluation.agreement.held_out import HeldOut
from evaluation.comparison.measure import measure_model
from evaluation.comparison.measure_draft import measure_drafting
from evaluation.comparison.model_row import ModelRow
from evaluation.comparison.result import BenchmarkResult, build_result
from evaluation.comparison.shared_settings import SharedSettings, hash_of
from evaluation.config import BenchmarkConfig
from evaluation.errors import EvaluationError
from evaluation.judging.progress import Stages
from evaluation.judging.self_check import prove_benchmark
from evaluation.models.sources import (
    list_sources,
    model_identity,
    resolve_device,
    split_bystanders,
)
from evaluation.models.training import read_training
from evaluation.page.chart_files import write_chart_files
from evaluation.page.page import write_html
from evaluation.problems.benchmarks import load_benchmark, remark_on_judging
from evaluation.problems.contamination import contamination_remarks, measure_contamination
from evaluation.report.result_files import write_report
from evaluation.sandbox.checks import sandbox_level

__all__ = ["BenchmarkResult", "prepare", "run_benchmark"]


def run_benchmark(config: BenchmarkConfig) -> BenchmarkResult:
    """Measure teacher and checkpoints, and write results, tables and charts to `config.out`.

    Interrupted, it leaves whole files behind; called again with the same configuration it goes
    on after the last finished batch. One process at a time writes to an `out`.

    Raises: EvaluationError.
    """
    checkpoints, bystanders = split_bystanders(config.checkpoints)
    sources = list_sources(checkpoints, config.teacher, config.revision)
    shared = prepare(config)
    _require_folder(config.out)
    contamination = None
    if config.cache is not None:
        contamination = measure_contamination(config.cache, shared.problems)
    rows: list[ModelRow] = []
    with _only_writer(config.out), Stages() as stages:
        remarks = [f"Skipped {problem}" for problem in shared.benchmark.skipped]
        remarks += [f"Skipped {path}: no model in it" for path in bystanders]
        remarks += remark_on_judging(shared.problems)
        chosen = replace(shared.benchmark, problems=shared.problems)
        checked = prove_benchmark(chosen, config, stages)
        remarks += checked.remarks if checked else ()
        remarks += contamination_remarks(contamination, checkpoints, len(shared.problems))
        for source in sources:
            row = measure_model(source, shared, stages.of(source.label))
            speed, why_not = measure_drafting(source, shared, stages.of(source.label))
            training = read_training(source.source)
            rows.append(replace(row, draft_speed=speed, no_draft_speed=why_not, training=training))
            result = build_result(
                rows,
                shared,
                remarks,
                contamination=contamination,
                self_check=checked,
                complete=len(rows) == len(sources),
            )
            write_report(result, config.out)
            write_html(asdict(result), shared.problems, config.out)
    write_chart_files(asdict(result)["rows"], shared.benchmark.name, config.out)
    if config.wandb != "disabled":
        from evaluation.report.wandb_table import log_table

        log_table(result, mode=config.wandb, project=config.wandb_project, folder=config.out)
    return result


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Raise EvaluationError where another process writes to the folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(writer_lock(out))
        except CacheError as error:
            raise EvaluationError(str(error)) from error
        yield


def prepare(config: BenchmarkConfig) -> SharedSettings:
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
    return SharedSettings(
        config=config,
        benchmark=benchmark,
        problems=benchmark.problems[: config.limit],
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        sandbox=sandbox_level(config.allow_weak_sandbox),
        held_out=_open_held_out(config),
        live_teacher=_name_live_teacher(config),
    )


def _open_held_out(config: BenchmarkConfig) -> HeldOut | None:
    if config.cache is None or config.agreement_documents == 0:
        return None
    return HeldOut(config.cache, config.agreement_documents)


def _name_live_teacher(config: BenchmarkConfig) -> str | None:
    if not config.live_agreement:
        return None
    (teacher,) = list_sources((), config.teacher, config.revision)
    return f"{teacher.label}@{hash_of(model_identity(teacher))[:12]}"


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"{out} is a file; results need a folder. Choose another --out")
    try:
        make_directory(out)
    except CacheError as error:
        raise EvaluationError(str(error)) from error
