"""Results to files and tables: JSON with everything, CSV with the columns, Markdown to read."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cache.machine.durable import write_json, write_text
from evaluation.comparison.model_row import ModelRow
from evaluation.comparison.result import BenchmarkResult
from evaluation.errors import EvaluationError
from evaluation.report.details import (
    NARROW,
    agreement_numbers,
    agreement_table,
    latency_numbers,
    latency_table,
    likeness_table,
    short,
)
from evaluation.report.verdict_tables import (
    NARROW_COMPARISON,
    comparison_table,
    outcome_table,
    percent,
    uncontaminated_table,
    verdict_numbers,
)

AGAINST_THE_TEACHER = "Against the teacher, in points"
WITHOUT_CONTAMINATED = "All problems → without contaminated ones"
COST_COLUMNS = (
    "params",
    "size",
    "mean ms",
    "median ms",
    "p95 ms",
    "tok/s",
    "speed-up",
    "smaller",
)


def write_report(result: BenchmarkResult, out: Path) -> None:
    """Write results.json, results.csv and results.md, each whole or not at all."""
    content = asdict(result)
    write_json(out / "results.json", content, EvaluationError)
    write_text(out / "results.csv", _to_csv(result.rows), EvaluationError)
    write_text(out / "results.md", to_markdown(result), EvaluationError)


def flat_row(row: ModelRow) -> dict[str, Any]:
    """A row as plain columns, the same for CSV and W&B; what does not exist is None."""
    columns: dict[str, Any] = {
        "model": row.label,
        "role": "teacher" if row.is_teacher else "student",
        "parameters": row.parameters,
        "size_bytes": row.size_bytes,
        "size_source": row.size_source,
        "greedy_pass@1": row.greedy_pass_at_1,
        "greedy_pass@1_low": row.greedy_interval[0],
        "greedy_pass@1_high": row.greedy_interval[1],
    }
    for k, score in row.pass_at.items():
        columns[f"pass@{k}"] = score
        columns[f"pass@{k}_low"], columns[f"pass@{k}_high"] = row.pass_at_intervals[k]
    columns |= {
        "bleu": row.bleu,
        "bleu_raw": row.bleu_raw,
        "codebleu": row.codebleu,
        "codebleu_raw": row.codebleu_raw,
        "latency_mean_ms": row.latency.mean_ms,
        "latency_median_ms": row.latency.median_ms,
        "latency_p95_ms": row.latency.p95_ms,
        "tokens_per_second": row.latency.tokens_per_second,
        **latency_numbers(row),
        **agreement_numbers(row),
        "speedup": row.speedup,
        "compression": row.compression,
        "parameter_ratio": row.parameter_ratio,
        **verdict_numbers(row),
        "peak_memory_bytes": row.peak_memory_bytes,
        "prompts_too_long": row.greedy_outcomes.get("prompt_too_long", 0),
    }
    return columns


def _to_csv(rows: tuple[ModelRow, ...]) -> str:
    text = io.StringIO()
    flat = [flat_row(row) for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def readable_columns(row: ModelRow) -> dict[str, str]:
    """A row as short texts with units, for tables."""
    columns = {
        "model": f"{row.label} (teacher)" if row.is_teacher else row.label,
        "params": f"{short(row.parameters / 1e6)} M",
        "size": f"{short(row.size_bytes / 1e6)} MB{'*' if 'computed' in row.size_source else ''}",
        "greedy pass@1": percent(row.greedy_pass_at_1, row.greedy_interval),
    }
    for k, rate in row.pass_at.items():
        columns[f"pass@{k}"] = percent(rate, row.pass_at_intervals[k])
    columns |= {
        "BLEU": f"{row.bleu:.1f}",
        "mean ms": short(row.latency.mean_ms),
        "median ms": short(row.latency.median_ms),
        "p95 ms": short(row.latency.p95_ms),
        "tok/s": short(row.latency.tokens_per_second),
        "speed-up": _ratio(row.speedup),
        "smaller": _ratio(row.compression),
    }
    return columns


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{short(value)}×"


def to_rich_table(result: BenchmarkResult) -> Group:
    """The comparison for a terminal: what the models can do, then what they cost."""
    rows = [readable_columns(row) for row in result.rows]
    quality = [name for name in rows[0] if name not in COST_COLUMNS]
    return Group(
        _rich_table(f"Quality  {result.signatures['greedy']}", rows, quality),
        _rich_table(f"Cost  {result.signatures['latency']}", rows, ["model", *COST_COLUMNS]),
        *(_rich_table(title, lines, _narrow(list(lines[0]))) for title, lines in _details(result)),
        *(Text(f"Note: {note}") for note in result.notes),
    )


def _narrow(names: list[str]) -> list[str]:
    """The columns of a table that a terminal has room for."""
    for narrow in (NARROW, NARROW_COMPARISON):
        if set(narrow) <= set(names):
            return list(narrow)
    return names


def _details(result: BenchmarkResult) -> list[tuple[str, list[dict[str, str]]]]:
    """Titles and lines of the tables that were measured."""
    tables = [
        (AGAINST_THE_TEACHER, comparison_table(result.rows)),
        (WITHOUT_CONTAMINATED, uncontaminated_table(result.rows)),
        ("Likeness to canonical solutions", likeness_table(result.rows)),
        ("Latency", latency_table(result.rows)),
        ("Agreement with the teacher on held-out documents", agreement_table(result.rows)),
    ]
    return [(title, lines) for title, lines in tables if lines]


def _rich_table(title: str, rows: list[dict[str, str]], names: list[str]) -> Table:
    table = Table(
        title=Text(title), title_justify="left", box=SIMPLE, padding=0, collapse_padding=True
    )
    for name in names:
        if name == "model":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        # An interval goes under its value: there is more room that way.
        table.add_row(*(Text(row[name].replace(" [", "\n[")) for name in names))
    return table


def to_markdown(result: BenchmarkResult) -> str:
    """The comparison with its signatures, outcomes and notes."""
    rows = [readable_columns(row) for row in result.rows]
    parts = [f"# {result.config['benchmark']}: {result.num_problems} problems", ""]
    if not result.complete:
        parts += ["**Not complete: models are still to come.**", ""]
    if result.self_check is not None:
        parts += [f"Self-check passed: {result.self_check.sentence}", ""]
    quality = [name for name in rows[0] if name not in COST_COLUMNS]
    parts += _markdown_table([{name: row[name] for name in quality} for row in rows])
    parts += ["", "95 % intervals in brackets.", "", "## Cost", ""]
    cost = ["model", *COST_COLUMNS]
    parts += _markdown_table([{name: row[name] for name in cost} for row in rows])
    if any("computed" in row.size_source for row in result.rows):
        parts += ["", "\\* " + "; ".join(_computed_sizes(result.rows)) + "."]
    for title, lines in _details(result):
        parts += ["", f"## {title}", "", *_markdown_table(lines)]
    parts += ["", "## What ended the completions", ""]
    parts += _markdown_table(outcome_table(result.rows))
    parts += ["", "## Signatures", ""]
    parts += [f"- {name}: `{text}`" for name, text in result.signatures.items()]
    parts += [f"- problems: {result.benchmark_source}"]
    parts += [f"- device: {result.device}, dtype {result.dtype}, for every model"]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    parts += [f"- versions: {versions}", f"- date: {result.date}"]
    if result.notes:
        parts += ["", "## Notes", ""] + [f"- {note}" for note in result.notes]
    return "\n".join(parts) + "\n"


def _computed_sizes(rows: tuple[ModelRow, ...]) -> list[str]:
    return [
        f"{row.label} has no .safetensors file: {row.size_source}"
        for row in rows
        if "computed" in row.size_source
    ]


def _markdown_table(rows: list[dict[str, str]]) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row.values()) + " |")
    return lines
