"""The comparison for a terminal: every table, in as many parts as its width asks for."""

from collections.abc import Iterator
from textwrap import wrap

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from evaluation.comparison.result import BenchmarkResult
from evaluation.report.columns import label
from evaluation.report.tables import Table, measured_tables

WIDEST = 24
"""Characters of a column at most; longer labels and texts are folded."""


def to_rich_tables(result: BenchmarkResult, width: int) -> Group:
    """The tables and notes for a terminal of so many characters a line."""
    drawn = []
    for table in measured_tables([row.to_json() for row in result.rows]):
        title = f"{table.title}  {result.signatures.get(table.signature, '')}"
        for part in _parts(table, width):
            drawn.append(_drawn(title, part))
            title = f"{table.title}, continued"
    return Group(*drawn, *(Text(f"Note: {note}") for note in result.notes))


def _parts(table: Table, width: int) -> Iterator[list[list[str]]]:
    """The texts of columns that fit beside each other, heads first and the models always."""
    labels = ["model", *(label(row) for _, row in table.rows)]
    part, used = [labels], _width(labels) + 2
    for column in table.columns:
        # An interval goes under its value: there is more room that way.
        texts = [column.text(row, gap="\n") for _, row in table.rows]
        least = max(map(len, column.name.split()))
        texts.insert(0, "\n".join(wrap(column.name, max(least, _width(texts)))))
        if len(part) > 1 and used + _width(texts) + 1 > width:
            yield part
            part, used = [labels], _width(labels) + 2
        part.append(texts)
        used += _width(texts) + 1
    yield part


def _width(texts: list[str]) -> int:
    return min(WIDEST, max(len(line) for text in texts for line in text.split("\n")))


def _drawn(title: str, columns: list[list[str]]) -> RichTable:
    drawn = RichTable(
        title=Text(title), title_justify="left", box=SIMPLE, padding=0, collapse_padding=True
    )
    for place, (head, *_) in enumerate(columns):
        drawn.add_column(
            Text(head), justify="right" if place else "left", overflow="fold", max_width=WIDEST
        )
    for texts in list(zip(*columns, strict=True))[1:]:
        drawn.add_row(*map(Text, texts))
    return drawn
