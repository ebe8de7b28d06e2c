import pytest

from evaluation.problems.in_child import told_expected


@pytest.mark.parametrize(
    "test",
    [
        "assert f(t) == 3",
        "assert 3 < f(t) <= len('abcd') and not f(None)",
        "assert f(N(1)) is True",
        "assert f(t).left.x == 3",
        "assert f(t)[0] == 3",
        "assert items(f(t)) == [3] and f(t).items() == [3]",
        "assert [f(N(i)) for i in range(2)] == [0, 1]",
        "assert (f(t), f(u)) == (1, 2)",
        "assert True",
    ],
)
def test_a_test_that_compares_with_what_the_judge_alone_has_tells_nothing(test):
    assert told_expected(test, {"f"}) is None


@pytest.mark.parametrize(
    "condition",
    [
        "same(f(t), N(1))",
        "isinstance(f(t), N)",
        "all((f(t) == 3 for t in ts))",
        "abs(f(t) - 2.5) < 1e-06",
        "(f(t) == 3) == True",
        "f(t) == EXPECTED",
        "items(f(t)) == items(t)",
        "f(t).equals(N(1))",
        "f(f(t))",
        "[f(t) for t in ts if t] == [1]",
    ],
)
def test_a_test_that_gives_the_program_both_sides_is_named(condition):
    assert told_expected(f"assert f(t) == 3\nassert {condition}", {"f"}) == condition
