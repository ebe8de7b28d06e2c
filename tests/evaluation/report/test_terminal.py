import io
from dataclasses import replace

import pytest
from rich.console import Console

from evaluation.comparison.model_row import compare_with_teacher, rate_uncontaminated
from evaluation.report.terminal import to_rich_tables
from tests.support.reports import STUDENT, TEACHER, result


def shown(found, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(to_rich_tables(found, width))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit_the_terminal(width):
    rows = compare_with_teacher([TEACHER, replace(STUDENT, label="student-44m" * 4)])
    text = shown(result(*rate_uncontaminated(rows, {"T/0"})), width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "32.0 %", "[25.0, 39.0]", "25.0 %", "8.00×", "44.3 M", "2,100", "7.4 %", "< 0.0001",
        "n:1|temp:0", "Something to know.",
    ):  # fmt: skip
        assert part in text
    assert "…" not in text


def test_a_wide_terminal_has_every_table_in_one_part_and_a_narrow_one_says_which_goes_on():
    found = result(TEACHER, STUDENT)
    assert "continued" not in shown(found, 200)
    assert "Against the teacher, continued" in shown(found, 60)
