from evaluation.report import forms
from evaluation.report.columns import Cell, Column, label, look_up

ROW = {"label": "m", "is_teacher": True, "rate": {"1": 0.5, "ends": (0.25, 0.75)}, "none": None}
RATE = Column("rate", "rate", "rate.1", forms.SHARE, "A rate.", "rate.ends")


def test_a_path_that_ends_early_leads_to_nothing():
    assert look_up(ROW, "rate.1") == 0.5
    for path in ("", "rate.2", "none.1", "rate.1.x", "gone.gone"):
        assert look_up(ROW, path) is None


def test_an_interval_follows_its_number_in_every_form():
    assert RATE.numbers(ROW) == {"rate": 0.5, "rate_low": 0.25, "rate_high": 0.75}
    assert RATE.cell(ROW) == Cell("50.0 %", ("25.0", "75.0"))
    assert RATE.text(ROW) == "50.0 % [25.0, 75.0]"
    assert RATE.text(ROW, gap="\n") == "50.0 %\n[25.0, 75.0]"
    assert RATE.text({"rate": {"1": 0.5, "ends": None}}) == "50.0 %"


def test_what_was_not_measured_is_none_and_a_dash():
    assert RATE.numbers({}) == {"rate": None, "rate_low": None, "rate_high": None}
    assert RATE.cell({}) is None and RATE.text({}) == "–"
    counted = Column("n", "n", "counts.n", forms.COUNT, "A count.", default=0)
    assert counted.value({}) == 0 and counted.text({}) == "0"


def test_the_teacher_is_named_as_such():
    assert label(ROW) == "m (teacher)" and label({**ROW, "is_teacher": False}) == "m"
