import pytest

from evaluation.report import forms


@pytest.mark.parametrize(
    ("form", "number", "text"),
    [
        (forms.SHORT, 3030.4, "3,030"),
        (forms.SHORT, 44.34, "44.3"),
        (forms.SHORT, 1.266, "1.27"),
        (forms.COUNT, 9000, "9,000"),
        (forms.SHARE, 0.0793, "7.9 %"),
        (forms.OF_HUNDRED, 25.04, "25.0 %"),
        (forms.POINTS, -0.2378, "−23.8"),
        (forms.POINTS, 0.05, "+5.0"),
        (forms.P_VALUE, 2**-38, "< 0.0001"),
        (forms.P_VALUE, 0.0625, "0.0625"),
        (forms.MILLIONS, 44_343_296, "44.3 M"),
        (forms.MEGABYTES, 6_060_000_000, "6,060 MB"),
        (forms.GIBIBYTES, 3 << 30, "3.00 GiB"),
        (forms.RATIO, 8, "8.00×"),
    ],
)
def test_numbers_become_texts_of_few_digits_with_their_unit(form, number, text):
    assert form.show(number) + form.unit == text
