"""Results as files: JSON with everything, CSV with the numbers, Markdown to read."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.machine.durable import write_json, write_text
from evaluation.comparison.result import BenchmarkResult
from evaluation.errors import EvaluationError
from evaluation.report.markdown import to_markdown
from evaluation.report.tables import flat_rows


def write_report(result: BenchmarkResult, out: Path) -> None:
    """Write results.json, results.csv and results.md, each whole or not at all."""
    content = asdict(result)
    write_json(out / "results.json", content, EvaluationError)
    write_text(out / "results.csv", _to_csv(flat_rows(content["rows"])), EvaluationError)
    write_text(out / "results.md", to_markdown(result), EvaluationError)


def _to_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
