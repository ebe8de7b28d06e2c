import csv
import io
from dataclasses import replace

import matplotlib.image
import pytest
from rich.console import Console

from evaluation.comparison.model_row import (
    ModelRow,
    compare_with_teacher,
    rate_uncontaminated,
    row_notes,
)
from evaluation.models.latency import GenerationTimes
from evaluation.report.details import latency_table, likeness_table
from evaluation.report.plots import plot_quality
from evaluation.report.report import flat_row, to_markdown, to_rich_table, write_report
from tests.support.reports import LATENCY, STUDENT, TEACHER, result


def test_ratios_are_teacher_over_student_and_kept_is_in_percent():
    row = compare_with_teacher([TEACHER, STUDENT])[1]
    assert row.speedup == 8
    assert row.compression == pytest.approx(6060 / 177)
    assert row.comparison.kept_percent == pytest.approx(25)
    assert (row.comparison.both, row.comparison.only_teacher) == (13, 39)


def test_nothing_is_kept_of_a_teacher_that_solves_nothing():
    nothing = dict.fromkeys(TEACHER.greedy_passed, False)
    rows = compare_with_teacher([replace(TEACHER, greedy_passed=nothing), STUDENT])
    assert rows[1].comparison.kept_percent is None
    assert rows[1].comparison.kept_percent_interval is None
    assert rows[1].speedup == 8


def test_without_a_teacher_there_are_no_ratios():
    assert compare_with_teacher([STUDENT]) == [STUDENT]


def test_rows_survive_the_way_through_json():
    import json

    row = compare_with_teacher([TEACHER, STUDENT])[1]
    assert ModelRow.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_student_beyond_what_its_size_is_known_to_reach_is_noted_and_a_teacher_is_not():
    good = replace(
        STUDENT,
        greedy_pass_at_1=0.16,
        greedy_interval=(0.11, 0.22),
        pass_at_intervals={"1": (0.05, 0.09), "10": (0.1, 0.2)},
        greedy_passed={f"HumanEval/{i}": i < 26 for i in range(164)},
    )
    (note,) = row_notes(good, 164)
    assert note.startswith(
        "student-44m: greedy pass@1 of 16.0% (95 % 11.0% to 22.0%) from 44 M parameters is "
        "implausible: Codex 85M reaches 8.2% (Chen et al. 2021, table 1)"
    )
    assert row_notes(replace(good, greedy_interval=(0.07, 0.22)), 164) == []
    assert row_notes(replace(good, parameters=400_000_000), 164) == []
    assert row_notes(replace(good, is_teacher=True), 164) == []
    sampled = replace(good, greedy_interval=(0.0, 0.1), pass_at_intervals={"1": (0.09, 0.11)})
    assert row_notes(sampled, 164)[0].startswith("student-44m: sampled pass@1 of 7.0%")


def test_repeated_prompts_are_noted():
    few = replace(STUDENT, latency=replace(LATENCY, distinct_prompts=2))
    assert "20 timed generations on only 2 different prompts" in row_notes(few, 2)[0]


def test_csv_has_a_column_for_every_measurement(tmp_path):
    write_report(result(TEACHER, STUDENT), tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert float(rows[1]["speedup"]) == 8
    assert float(rows[1]["latency_p95_ms"]) == 260
    assert rows[0]["size_source"].startswith("computed")
    assert list(rows[0]) == list(flat_row(STUDENT))


def test_markdown_labels_computed_sizes_and_carries_signatures_and_notes():
    text = to_markdown(result(TEACHER, STUDENT))
    assert "6,060 MB*" in text and "177 MB |" in text
    assert "teacher-3b has no .safetensors file: computed: parameters x 2 bytes" in text
    assert "`n:1|temp:0`" in text and "- Something to know." in text
    assert "wrong answer 112" in text
    assert "| 32.0% [25.0, 39.0] | 30.0% [20.0, 40.0] |" in text


def test_markdown_compares_with_the_teacher_and_leaves_contaminated_problems_out():
    rows = compare_with_teacher([TEACHER, STUDENT])
    clean = rate_uncontaminated(rows, {"T/0", "T/1", "T/100"})
    text = to_markdown(result(*clean))
    (line,) = [line for line in text.splitlines() if line.startswith("| student-44m | 25 % [")]
    assert line.endswith("| 13 | 0 | 39 | 112 |") and "| <0.001 |" in line
    low, high = rows[1].comparison.greedy_difference_interval
    assert f"| -23.8 [{100 * low:+.1f}, {100 * high:+.1f}] |" in line
    assert "| student-44m | 161 of 164 | 8.0% → 6.8% | 7.0% → " in text
    assert "→ without" in text and "→ without" not in to_markdown(result(*rows))
    assert "→ without" not in to_markdown(result(*rate_uncontaminated(rows, {"U/0"})))
    flat = flat_row(clean[1])
    assert flat["greedy_pass@1_uncontaminated"] == pytest.approx(11 / 161)
    assert flat["mcnemar_p"] == pytest.approx(2**-38)
    assert flat_row(TEACHER)["mcnemar_p"] is None


def test_failures_at_the_token_limit_have_their_column():
    row = replace(STUDENT, failed_at_token_limit={"greedy": 7, "sampled": 90})
    assert "| greedy 7, sampled 90 |" in to_markdown(result(row))
    assert flat_row(row)["sampled_failed_at_token_limit"] == 90


def test_terminal_tables_fit_80_columns():
    console = Console(width=80, file=io.StringIO(), record=True)
    rows = compare_with_teacher([TEACHER, STUDENT])
    console.print(to_rich_table(result(*rate_uncontaminated(rows, {"T/0"}))))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "32.0%",
        "25 %",
        "8.00×",
        "44.3 M",
        "2,100",
        "8.0% → 7.4%",
        "<0.001",
        "Something to know.",
    ):
        assert part in text
    assert "…" not in text


def test_plots_are_written_for_one_model_and_for_many(tmp_path):
    many = [replace(STUDENT, label=f"student-{i}", bleu=10.0 + i) for i in range(5)]
    for rows in ([STUDENT], [TEACHER, *many]):
        for path in plot_quality(rows, "humaneval", tmp_path):
            picture = matplotlib.image.imread(path)
            assert picture.shape[0] > 600 and picture.shape[1] > 1500
            assert picture.std() > 0.01


def test_latency_of_batches_and_likeness_have_tables_of_their_own():
    batched = GenerationTimes(
        batch=8,
        mean_ms=4000.0,
        median_ms=4001.0,
        p95_ms=4200.0,
        first_token_ms=400.0,
        first_token_p95_ms=440.0,
        per_token_ms=None,
        per_token_p95_ms=None,
        tokens_per_second=128.0,
        peak_memory_bytes=3 << 30,
    )
    row = replace(STUDENT, latency=replace(LATENCY, batched=batched), codebleu=21.26)
    alone, together = latency_table([row])
    assert (alone["batch"], alone["first ms"], alone["next ms"]) == ("1", "60.0", "30.60")
    assert (alone["GiB"], together["GiB"]) == ("–", "3.00")
    assert (together["batch"], together["all ms"], together["next ms"]) == ("8", "4,001", "–")
    (likeness,) = likeness_table([row])
    assert list(likeness.values())[1:] == ["30.0", "29.5", "21.3", "–"]
    text = to_markdown(result(row))
    assert "## Latency" in text and "## Likeness to canonical solutions" in text
    assert flat_row(row)["tokens_per_second_batched"] == 128
    assert flat_row(STUDENT)["tokens_per_second_batched"] is None
    assert set(flat_row(row)) == set(flat_row(STUDENT))
