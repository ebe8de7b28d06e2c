"""The report's tables as HTML."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from evaluation.page.charts import key
from evaluation.report.columns import Column, Row
from evaluation.report.tables import Table, count_kinds, measured_tables


def section_tables(rows: Sequence[Row], section: str) -> str:
    """The tables that stand in a section of the page; empty where nothing of it was measured."""
    return "".join(
        _model_table(table) for table in measured_tables(rows) if table.section == section
    )


def _model_table(found: Table) -> str:
    heads = "".join(
        f'<th scope="col"><abbr title="{escape(column.meaning)}">{escape(column.name)}</abbr></th>'
        for column in found.columns
    )
    lines = [
        f'<tr><th scope="row">{model_name(index, row)}</th>'
        + "".join(_cell(column, row) for column in found.columns)
        + "</tr>"
        for index, row in found.rows
    ]
    return table(found.title, f'<th scope="col">model</th>{heads}', lines)


def _cell(column: Column, row: Row) -> str:
    cell = column.cell(row)
    if cell is None:
        return "<td>–</td>"
    ends = f"<small>{' to '.join(map(escape, cell.interval))}</small>" if cell.interval else ""
    style = ' class="prose"' if isinstance(column.value(row), str) else ""
    return f"<td{style}>{escape(cell.text)}{ends}</td>"


def table(caption: str, heads: str, lines: Sequence[str]) -> str:
    """A table under its caption, which scrolls inside its own box."""
    return (
        f"<h3>{escape(caption)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table aria-label="{escape(caption)}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def model_name(index: int, row: Row) -> str:
    """Marker, number and label of a model."""
    tag = ' <span class="tag">teacher</span>' if row["is_teacher"] else ""
    label = re.sub(r"([/_-])", r"\1<wbr>", escape(row["label"]))
    return f'<span class="model">{model_number(index, row)}<span>{label}{tag}</span></span>'


def model_number(index: int, row: Row) -> str:
    """Marker and number of a model, where its label would take too much room."""
    return f"<span>{key(index, row['is_teacher'])}{index + 1}</span>"


def kinds_table(caption: str, rows: Sequence[Row], field: str, chips: Mapping[str, str]) -> str:
    """Counts of every kind of completion, a column a model; `chips` gives kinds their colours."""
    heads = '<th scope="col">kind</th>' + "".join(
        f'<th scope="col" title="{escape(row["label"])}">{model_number(index, row)}</th>'
        for index, row in enumerate(rows)
    )
    lines = [
        f'<tr><th scope="row">{_chip(chips.get(kind))}{escape(kind)}</th>'
        + "".join(f"<td>{f'{count:,}' if count else '–'}</td>" for count in counts)
        + "</tr>"
        for kind, counts in count_kinds(rows, field).items()
    ]
    return table(caption, heads, lines)


def _chip(style: str | None) -> str:
    return f'<span class="chip {style}"></span>' if style else ""
