import pytest

from evaluation.lessons.near_copies import canonical, distance, most_different, words_of

ONE = '''
def total(values: list) -> int:
    """Add them up."""
    result = 0  # so far
    for value in values:
        result += value
    return result
'''
SAME = """
def total(xs):
    s = 0
    for x in xs:

        s += x
    return s
"""


def same(one, other, names=("total",)):
    return canonical(one, names) == canonical(other, names)


def test_names_comments_docstrings_and_annotations_make_no_difference():
    assert same(ONE, SAME)


@pytest.mark.parametrize(
    "other",
    [
        SAME.replace("s = 0", "s = 1"),
        SAME.replace("s += x", "s -= x"),
        SAME.replace("return s", "return x"),  # one of the own names for another
        SAME.replace("def total", "def sum_up"),  # what the tests call
        SAME + "\ntotal([])\n",
    ],
)
def test_what_the_program_does_makes_one(other):
    assert not same(ONE, other)


def test_helpers_may_be_called_anything():
    one = "def help_me(a):\n    return a\ndef total(b):\n    return help_me(b)"
    assert same(one, one.replace("help_me", "h"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Which method is called is told by an attribute, which nobody may rename.
        (
            "class S:\n    def a(self): return 1\n    def b(self): return 2\n"
            "def total(x): return S().a()",
            "class S:\n    def b(self): return 1\n    def a(self): return 2\n"
            "def total(x): return S().a()",
        ),
        (
            "def f(a, b): return a - b\ndef total(x): return f(a=x, b=1)",
            "def f(b, a): return b - a\ndef total(x): return f(a=x, b=1)",
        ),
        ("import math\ndef total(x): return math.e", "import cmath\ndef total(x): return cmath.e"),
        ("from math import sin as f\ndef total(x): return f(x)",
         "from math import cos as f\ndef total(x): return f(x)"),
    ],
)  # fmt: skip
def test_names_that_others_see_stay(one, other):
    assert not same(one, other)


def test_a_name_of_nobody_is_not_taken_for_an_own_one():
    assert not same("def total(x): return len(x)", "def total(x): return sum(x)")


@pytest.mark.parametrize("code", ["def total(:", "x = " + "(" * 500 + ")" * 500, "f = '\0'"])
def test_what_does_not_parse_is_compared_as_it_stands(code):
    assert same(code, code.replace(" ", "  ")) and not same(code, code + "1")


def test_the_distance_is_that_of_the_sets_of_runs_of_three_tokens():
    one, other = words_of("a b c d"), words_of("a b c e")
    assert one == {("a", "b", "c"), ("b", "c", "d")}
    assert distance(one, other) == 1 - 1 / 3
    assert distance(one, one) == 0 and distance(frozenset(), frozenset()) == 0


def test_the_first_stays_and_then_those_that_are_farthest_from_all_chosen():
    texts = ["a b c d e f", "a b c d e g", "x y z u v w", "a b c x y z"]
    assert most_different(texts, 2) == [0, 2]
    assert most_different(texts, 3) == [0, 2, 3]
    assert most_different(texts, 9) == [0, 1, 2, 3]
    assert most_different([], 2) == []
