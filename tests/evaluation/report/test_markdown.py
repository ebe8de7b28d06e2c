from dataclasses import replace

from evaluation.comparison.model_row import compare_with_teacher, rate_uncontaminated
from evaluation.report.markdown import to_markdown
from evaluation.report.tables import flat_rows
from tests.support.reports import BATCHED, LATENCY, STUDENT, TEACHER, result


def test_markdown_says_where_sizes_come_from_and_carries_signatures_and_notes():
    text = to_markdown(result(TEACHER, STUDENT))
    assert "| 6,060 MB | computed: parameters x 2 bytes (bfloat16) |" in text
    assert "| 177 MB | file (F32) |" in text
    assert "`n:1|temp:0`" in text and "- Something to know." in text
    assert "| teacher-3b (teacher) | 32.0 % [25.0, 39.0] | 30.0 % [20.0, 40.0] |" in text


def test_markdown_counts_completions_by_kind_and_by_what_ended_them():
    text = to_markdown(result(TEACHER, STUDENT))
    for line in (
        "| kind | teacher-3b (teacher) | student-44m |",
        "| wrong answer | 112 | 112 |",
        "| wrong answer | 2296 | 2296 |",
        "| stop | 3444 | 3444 |",
    ):
        assert line in text
    assert "## Samples" not in to_markdown(result(replace(STUDENT, sampled_outcomes={})))


def test_markdown_compares_with_the_teacher_and_leaves_contaminated_problems_out():
    rows = compare_with_teacher([TEACHER, STUDENT])
    clean = rate_uncontaminated(rows, {"T/0", "T/1", "T/100"})
    text = to_markdown(result(*clean))
    _, line = [line for line in text.splitlines() if line.startswith("| student-44m | 25.0 % [")]
    assert line.endswith("| 13 | 0 | 39 | 112 |") and "| < 0.0001 |" in line
    ends = [f"{100 * end:+.1f}" for end in rows[1].comparison.greedy_difference_interval]
    assert f"| -23.8 [{', '.join(ends)}] |" in line.replace("−", "-")
    (line,) = [line for line in text.splitlines() if line.startswith("| student-44m | 161 | 8.0 %")]
    assert "| 8.0 % [4.0, 12.0] | 6.8 % | 7.0 % [20.0, 40.0] | " in line
    assert "Without contaminated" in text
    assert "Without contaminated" not in to_markdown(result(*rows))
    assert "Without contaminated" not in to_markdown(result(*rate_uncontaminated(rows, {"U/0"})))
    teacher, student = flat_rows([row.to_json() for row in clean])
    assert abs(student["greedy_pass@1_uncontaminated"] - 11 / 161) < 1e-12
    assert abs(student["mcnemar_p"] / 2**-38 - 1) < 1e-12
    assert teacher["mcnemar_p"] is None


def test_failures_at_the_token_limit_have_their_columns():
    row = replace(STUDENT, failed_at_token_limit={"greedy": 7, "sampled": 90})
    assert "| greedy at token limit | sampled at token limit |" in to_markdown(result(row))
    assert "| student-44m | 7 | 90 | 0 |" in to_markdown(result(row))
    assert flat_rows([row.to_json()])[0]["sampled_failed_at_token_limit"] == 90


def test_batches_have_a_table_of_their_own_and_likeness_has_columns():
    row = replace(STUDENT, latency=replace(LATENCY, batched=BATCHED))
    text = to_markdown(result(row, replace(STUDENT, label="unbatched")))
    alone, batches = text.split("## Latency of ")[1:]
    assert "| student-44m | 2,000 | 2,100 | 60.0 | 66.0 | 30.6 | 31.9 |" in alone
    assert "| student-44m | 8 | 4,001 | 128 | 4,000 | 4,200 | 400 | 440 | 3.00 GiB |" in batches
    assert "unbatched" in alone and "unbatched" not in batches.split("##")[0]
    assert text.count("| 30.0 | 29.5 |") == 2


def test_a_bar_in_a_label_does_not_end_its_cell():
    assert "| a\\|b | 8.0 %" in to_markdown(result(replace(STUDENT, label="a|b")))
