"""What a row says beside its numbers: ratios to the teacher, and what to note."""

import json
from dataclasses import replace

import pytest

from evaluation.comparison.model_row import ModelRow, compare_with_teacher, row_notes
from tests.support.reports import LATENCY, STUDENT, TEACHER, TRAINING


def test_ratios_are_teacher_over_student_and_kept_is_in_percent():
    row = compare_with_teacher([TEACHER, STUDENT])[1]
    assert row.speedup == 8
    skewed = replace(STUDENT, latency=replace(STUDENT.latency, mean_ms=1e6))
    assert compare_with_teacher([TEACHER, skewed])[1].speedup == 8  # of the medians shown
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


def test_a_student_with_the_teachers_own_weights_may_come_up_to_it_and_no_further():
    """40 and 26 of 164: more than any 44 M of their own, less than the teacher's."""

    def rows(num_teacher, num_student, training):
        solved = [
            {f"HumanEval/{i}": i < number for i in range(164)}
            for number in (num_teacher, num_student)
        ]
        teacher = replace(TEACHER, greedy_passed=solved[0], sampled_passed={})
        student = replace(
            STUDENT, greedy_pass_at_1=0.16, greedy_interval=(0.11, 0.22), training=training,
            greedy_passed=solved[1], pass_at={}, pass_at_intervals={}, sampled_passed={},
        )  # fmt: skip
        return row_notes(compare_with_teacher([teacher, student])[1], 164)

    cut = replace(TRAINING, from_teacher=True)
    assert rows(40, 26, cut) == []
    assert "implausible" in rows(20, 26, cut)[0]
    assert "implausible" in rows(40, 26, TRAINING)[0]


def test_repeated_prompts_are_noted():
    few = replace(STUDENT, latency=replace(LATENCY, distinct_prompts=2))
    assert "20 timed generations on only 2 different prompts" in row_notes(few, 2)[0]
