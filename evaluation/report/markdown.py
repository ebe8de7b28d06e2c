"""The comparison as Markdown: every table, the signatures and the notes."""

from collections.abc import Sequence

from evaluation.comparison.result import BenchmarkResult
from evaluation.report.columns import label
from evaluation.report.tables import DISTRIBUTIONS, count_kinds, measured_tables


def to_markdown(result: BenchmarkResult) -> str:
    """The comparison with its signatures, outcomes and notes."""
    rows = [row.to_json() for row in result.rows]
    scored, total = result.num_problems, result.total_problems
    some = f"{scored} of {total}" if scored < total else f"{scored}"
    parts = [f"# {result.config['benchmark']}: {some} problems", ""]
    if not result.complete:
        parts += ["**Not complete: models are still to come.**", ""]
    if result.self_check is not None:
        parts += [f"Self-check passed: {result.self_check.sentence}", ""]
    parts += ["95 % intervals in brackets."]
    for table in measured_tables(rows):
        parts += ["", f"## {table.title}", ""]
        heads = ["model", *(column.name for column in table.columns)]
        lines = [[label(row), *(one.text(row) for one in table.columns)] for _, row in table.rows]
        parts += _table(heads, lines)
    for title, field in DISTRIBUTIONS.items():
        kinds = count_kinds(rows, field)
        if kinds:
            lines = [[kind, *map(str, counts)] for kind, counts in kinds.items()]
            parts += ["", f"## {title}", "", *_table(["kind", *map(label, rows)], lines)]
    parts += ["", "## Signatures", ""]
    parts += [f"- {name}: `{text}`" for name, text in result.signatures.items()]
    parts += [f"- problems: {result.benchmark_source}"]
    parts += [f"- device: {result.device}, dtype {result.dtype}, for every model"]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    parts += [f"- versions: {versions}", f"- date: {result.date}"]
    if result.notes:
        parts += ["", "## Notes", ""] + [f"- {note}" for note in result.notes]
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [_line(heads), "|" + "---|" * len(heads), *map(_line, lines)]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
