"""How the numbers of a report become texts."""

from collections.abc import Callable
from typing import Any, NamedTuple


def short(value: float) -> str:
    """Three digits or more: 3,030, 44.3, 1.27."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


class Form(NamedTuple):
    """How a number becomes a text."""

    show: Callable[[Any], str]
    unit: str = ""
    """Stands after the number, not after the ends of its interval."""


TEXT = Form(str)
COUNT = Form("{:,}".format)
SHORT = Form(short)
ONE_DIGIT = Form("{:.1f}".format)
THREE_DIGITS = Form("{:,.3f}".format)
RATIO = Form(short, "×")
OF_HUNDRED = Form("{:.1f}".format, " %")
SHARE = Form(lambda share: f"{100 * share:.1f}", " %")
POINTS = Form(lambda difference: f"{100 * difference:+.1f}".replace("-", "−"))
HOURS = Form(lambda seconds: short(seconds / 3600), " h")
P_VALUE = Form(lambda p: "< 0.0001" if p < 1e-4 else f"{p:.4f}")
MILLIONS = Form(lambda count: short(count / 1e6), " M")
MEGABYTES = Form(lambda size: short(size / 1e6), " MB")
GIBIBYTES = Form(lambda size: short(size / (1 << 30)), " GiB")
