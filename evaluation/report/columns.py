"""One column of the tables of models: where its number stands in a row, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evaluation.report.forms import Form

Row = Mapping[str, Any]
"""A model, as in results.json."""


CUT = "agreement.num_cut"
"""Held-out documents that a model's positions cut: where there are any, its agreement is over fewer
tokens than that of others, and ranks it beside none."""


def look_up(row: Any, path: str) -> Any:
    """The value at a path of keys, such as `latency.mean_ms`; None where it ends early."""
    for name in path.split("."):
        row = row.get(name) if isinstance(row, Mapping) else None
    return row


def label(row: Row) -> str:
    """The name of a model, which says whether it is the teacher."""
    return f"{row['label']} (teacher)" if row["is_teacher"] else row["label"]


class Cell(NamedTuple):
    """What a table to read shows of a number."""

    text: str
    interval: tuple[str, str] | None
    """Ends of the 95 % interval; None where there is none."""


@dataclass(frozen=True)
class Column:
    """A number of every model: for CSV and W&B as it is, for tables to read as a text."""

    key: str
    """Its name in CSV and W&B; the ends of its interval add `_low` and `_high`."""
    name: str
    """Its head in tables to read."""
    path: str
    """Of the number in a row."""
    form: Form
    meaning: str
    """Shown under the mouse and read out."""
    interval: str = ""
    """Path of its 95 % interval; empty where it never has one."""
    default: int | None = None
    """The number where there is none at its path."""
    unless: str = ""
    """Path of a count that is 0 where the number compares with other models'; elsewhere it is left
    out."""

    def value(self, row: Row) -> Any:
        """The number itself; None where it was not measured."""
        if self.unless and look_up(row, self.unless):
            return None
        found = look_up(row, self.path)
        return self.default if found is None else found

    def numbers(self, row: Row) -> dict[str, Any]:
        """The number and the ends of its interval, by their names in CSV."""
        found = {self.key: self.value(row)}
        if self.interval:
            ends = look_up(row, self.interval) or (None, None)
            found |= {f"{self.key}_low": ends[0], f"{self.key}_high": ends[1]}
        return found

    def cell(self, row: Row) -> Cell | None:
        """The number as text; None where it was not measured."""
        value, ends = self.value(row), look_up(row, self.interval)
        if value is None:
            return None
        show, unit = self.form
        return Cell(show(value) + unit, (show(ends[0]), show(ends[1])) if ends else None)

    def text(self, row: Row, gap: str = " ") -> str:
        """The number and, after the gap, its interval in brackets; – where it was not measured."""
        cell = self.cell(row)
        if cell is None:
            return "–"
        return cell.text + (f"{gap}[{', '.join(cell.interval)}]" if cell.interval else "")
