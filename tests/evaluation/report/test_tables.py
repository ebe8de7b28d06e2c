"""One list of columns, and four renderings of it that leave nothing out."""

import csv
import io
import re
from dataclasses import asdict, replace
from html import unescape

import pytest
from rich.console import Console

from evaluation.comparison.model_row import compare_with_teacher, rate_uncontaminated
from evaluation.page.page import to_html
from evaluation.report import forms, tables
from evaluation.report.columns import Column
from evaluation.report.markdown import to_markdown
from evaluation.report.result_files import write_report
from evaluation.report.tables import count_kinds, every_table, flat_rows, measured_tables
from evaluation.report.terminal import to_rich_tables
from tests.support.reports import STUDENT, TEACHER, full_result, result

OWN_NUMBERS = {
    "greedy_pass@1": lambda row: row.greedy_pass_at_1,
    "greedy_pass@1_low": lambda row: row.greedy_interval[0],
    "pass@10": lambda row: row.pass_at["10"],
    "pass@10_high": lambda row: row.pass_at_intervals["10"][1],
    "bleu_raw": lambda row: row.bleu_raw,
    "kept_percent": lambda row: row.comparison and row.comparison.kept_percent,
    "mcnemar_p": lambda row: row.comparison and row.comparison.mcnemar_p,
    "only_teacher": lambda row: row.comparison and row.comparison.only_teacher,
    "uncontaminated_problems": lambda row: row.uncontaminated_problems,
    "greedy_pass@1_uncontaminated": lambda row: row.greedy_pass_at_1_uncontaminated,
    "pass@1_uncontaminated": lambda row: row.pass_at_uncontaminated["1"],
    "kl_whole": lambda row: row.agreement.whole.kl,
    "kl_whole_high": lambda row: row.agreement.whole.kl_interval[1],
    "top1_agreement_completion": lambda row: row.agreement.completion.top1,
    "teacher_bits_per_byte_whole": lambda row: row.agreement.whole.teacher_bits_per_byte,
    "parameters": lambda row: row.parameters,
    "size_source": lambda row: row.size_source,
    "speedup": lambda row: row.speedup,
    "peak_memory_bytes": lambda row: row.peak_memory_bytes,
    "latency_p95_ms": lambda row: row.latency.p95_ms,
    "first_token_ms": lambda row: row.latency.first_token_ms,
    "tokens_per_second": lambda row: row.latency.tokens_per_second,
    "latency_batch": lambda row: row.latency.batched.batch,
    "latency_median_ms_batched": lambda row: row.latency.batched.median_ms,
    "latency_peak_memory_bytes_batched": lambda row: row.latency.batched.peak_memory_bytes,
    "sampled_failed_at_token_limit": lambda row: row.failed_at_token_limit["sampled"],
    "prompts_too_long": lambda row: row.greedy_outcomes["prompt_too_long"],
}


@pytest.fixture
def extra_column(monkeypatch):
    """A column that is only in the list."""
    column = Column("generations", "timed", "latency.generations", forms.COUNT, "Timed ones.")
    monkeypatch.setattr(tables, "COST", [*tables.COST, column])
    return column


def in_csv(found, out):
    """What each model's cells of the CSV file hold, by their column."""
    write_report(found, out)
    return list(csv.DictReader((out / "results.csv").open()))


def in_markdown(found):
    """Heads and lines of every table, by its title."""
    shown = {}
    for part in to_markdown(found).split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        cells = [line[2:-2].split(" | ") for line in body.splitlines() if line.startswith("| ")]
        shown[title] = cells
    return shown


def in_terminal(found, width):
    """Words of each table's parts, by its title."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(to_rich_tables(found, width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    shown, title = {}, None
    titles = [table.title for table in measured_tables(asdict(found)["rows"])]
    for line in text.splitlines():
        title = next((one for one in titles if line.startswith(one)), title)
        shown.setdefault(title, []).extend(line.split())
    return shown


def on_page(found, out):
    """Heads and lines of every table, by its title; an interval stands as in Markdown."""
    shown = {}
    pattern = r'<h3>([^<]+)</h3><div class="scroll".*?<table[^>]*>(.*?)</table>'
    for title, body in re.findall(pattern, to_html(asdict(found), (), out)):
        body = re.sub(r"<small>(.*?) to (.*?)</small>", r" [\1, \2]", body)
        lines = [re.findall(r"<t[hd]\b.*?</t[hd]>", line) for line in body.split("<tr>")[1:]]
        shown[unescape(title)] = [[plain(cell) for cell in line] for line in lines]
    return shown


def plain(html):
    return unescape(re.sub("<[^>]+>", "", html))


def test_every_column_is_in_all_four_renderings_with_the_same_text(tmp_path, extra_column):
    found = full_result()
    rows = asdict(found)["rows"]
    sheet, markdown, page = in_csv(found, tmp_path), in_markdown(found), on_page(found, tmp_path)
    terminals = [in_terminal(found, width) for width in (80, 300)]
    seen = set()
    for table in every_table(rows):
        kept = [
            row
            for _, row in table.rows
            if any(column.value(row) is not None for column in table.columns)
        ]
        assert kept, f"{table.title}: full_result() has nothing of it"
        for place, column in enumerate(table.columns, 1):
            seen.add(column.key)
            for shown in (markdown, page):
                heads, *lines = shown[table.title]
                assert heads[place] == column.name
                assert [line[place] for line in lines] == [column.text(row) for row in kept]
            for words in terminals:
                assert set(column.name.split()) <= set(words[table.title])
                for row in kept:
                    assert set(column.text(row).split()) <= set(words[table.title])
            for row, line in zip(rows, sheet, strict=True):
                for key, number in column.numbers(row).items():
                    assert line[key] == ("" if number is None else str(number))
    assert extra_column.key in seen and len(seen) > 60


def test_numbers_are_the_rows_own():
    found = full_result()
    flat = flat_rows(asdict(found)["rows"])
    for row, numbers in zip(found.rows, flat, strict=True):
        assert numbers["model"] == row.label
        assert (numbers["role"] == "teacher") == row.is_teacher
        for key, own in OWN_NUMBERS.items():
            assert numbers[key] == own(row), key


def test_every_column_has_its_own_key_and_says_what_it_means():
    meanings = {}
    for table in every_table(asdict(full_result())["rows"]):
        names = [column.name for column in table.columns]
        assert len(set(names)) == len(names), table.title
        for column in table.columns:
            assert column.meaning.endswith(".")
            # A column may stand in two tables, but is the same one there.
            assert meanings.setdefault(column.key, column) == column


def test_what_was_not_measured_has_no_table_and_no_column_but_stays_in_csv():
    rows = asdict(result(STUDENT))["rows"]
    titles = [table.title for table in measured_tables(rows)]
    assert titles == [
        "What decides",
        "Quality",
        "Cost",
        "Latency of one prompt",
        "Failed at a limit",
    ]
    _, quality, cost, *_ = measured_tables(rows)
    assert [column.name for column in quality.columns][3:] == ["BLEU", "BLEU raw"]
    assert not {"speed-up", "smaller", "peak memory"} & {column.name for column in cost.columns}
    (flat,) = flat_rows(rows)
    assert set(flat) == set(flat_rows(asdict(full_result())["rows"])[0])
    for key in ("mcnemar_p", "kl_whole", "tokens_per_second_batched", "speedup"):
        assert flat[key] is None
    assert flat["prompts_too_long"] == 0


def test_models_share_columns_whatever_was_sampled_of_each():
    other = replace(STUDENT, pass_at={"100": 0.5}, pass_at_intervals={"100": (0.4, 0.6)})
    flat = flat_rows(asdict(result(STUDENT, other))["rows"])
    assert set(flat[0]) == set(flat[1]) and flat[0]["pass@100"] is None
    assert (flat[1]["pass@100"], flat[1]["pass@100_low"]) == (0.5, 0.4)


def test_clean_pass_rates_are_shown_only_where_some_problem_is_contaminated():
    rows = compare_with_teacher([TEACHER, STUDENT])
    for contaminated, shown in (({"T/0"}, True), ({"U/0"}, False)):
        clean = asdict(result(*rate_uncontaminated(rows, contaminated)))["rows"]
        titles = [table.title for table in measured_tables(clean)]
        assert ("Without contaminated problems" in titles) == shown
        assert flat_rows(clean)[0]["uncontaminated_problems"] == 164 - shown


def test_kinds_of_completions_are_counted_for_every_model_passed_first():
    other = replace(STUDENT, greedy_outcomes={"exception:NameError": 160, "signal:9": 4})
    kinds = count_kinds(asdict(result(STUDENT, other))["rows"], "greedy_outcomes")
    assert list(kinds) == ["passed", "exception NameError", "wrong answer", "killed by a signal"]
    assert kinds["passed"] == [52, 0] and kinds["killed by a signal"] == [0, 4]
