"""Charts as inline SVG: points with intervals and a Pareto front, and lines over steps.

Drawn here and not in the browser, so that they print, and are there without scripts. Small and
fixed in their coordinates: a phone shows one at its natural size, a desk several side by side.
Colours are classes of the page's style sheet, which knows light from dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 270
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 42
NUM_COLOURS = 7
MARKERS = ("circle", "square", "up", "down", "cross")
TOUCHING = 13


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model in a plane of cost and quality."""

    index: int
    """Place among the models, from 0; the number beside the point is one more."""
    label: str
    x: float
    y: float
    low: float | None = None
    """Ends of the interval of y, where there is one."""
    high: float | None = None
    text: str
    """What is read out, and shown under the mouse."""
    is_teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series over steps."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str
    """Classes of the style sheet, such as `c0 faint`."""
    dots: bool = False


def colour_class(index: int, is_teacher: bool) -> str:
    """The class of a model's colour: ink for the teacher, a hue for the others."""
    return "ink" if is_teacher else f"c{index % NUM_COLOURS}"


def key(index: int, is_teacher: bool) -> str:
    """A model's marker with its number, for legends and tables."""
    return (
        f'<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true">'
        f"{_marker(index, is_teacher, 0, 0)}</svg>"
    )


def scatter(points: Sequence[Point], x_label: str, y_label: str, *, percent: bool) -> str:
    """Quality over cost on a logarithmic axis, with the models that none beats in both."""
    x_axis = _LogAxis([point.x for point in points], LEFT, WIDTH - RIGHT)
    ends = [end for p in points for end in (p.y, p.low, p.high) if end is not None]
    y_axis = _LinearAxis(ends, HEIGHT - BOTTOM, TOP, floor=0.0 if percent else None)
    parts = [_frame(x_axis, y_axis, x_label, y_label, percent=percent)]
    front = [f"{x_axis(p.x):.1f},{y_axis(p.y):.1f}" for p in pareto_front(points)]
    if len(front) > 1:
        parts.append(f'<polyline class="front" points="{" ".join(front)}"/>')
    places = []
    for point in points:
        x, y = x_axis(point.x), y_axis(point.y)
        places.append((x, y, point.index + 1))
        bar = ""
        if point.low is not None and point.high is not None:
            low, high = y_axis(point.low), y_axis(point.high)
            bar = (
                f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}'
                f'M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"/>'
            )
        marker = _marker(point.index, point.is_teacher, x, y)
        parts.append(f"<g><title>{escape(point.text)}</title>{bar}{marker}</g>")
    parts += _numbers(places)
    said = f"{y_label} against {x_label}. " + "; ".join(point.text for point in points)
    return _svg(parts, said)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points with no other at least as good at no more cost, from cheap to costly."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def lines(series: Sequence[Line], x_label: str, y_label: str, said: str) -> str:
    """Series over steps on linear axes."""
    everything = [point for line in series for point in line.points]
    x_axis = _LinearAxis([x for x, _ in everything], LEFT, WIDTH - RIGHT, floor=0.0)
    y_axis = _LinearAxis([y for _, y in everything], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x_axis, y_axis, x_label, y_label, percent=False)]
    for line in series:
        places = [(x_axis(x), y_axis(y)) for x, y in line.points]
        title = f"<title>{escape(line.label)}</title>"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places)
        parts.append(
            f'<g class="line {line.style}">{title}<polyline points="{path}"/>'
            f"{dots if line.dots else ''}</g>"
        )
    return _svg(parts, said)


def _svg(parts: Sequence[str], said: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(said)}">{"".join(parts)}</svg>'
    )


class _LinearAxis:
    """Values to coordinates, with a little room and round ticks."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, floor: float | None = None
    ) -> None:
        low, high = min(values), max(values)
        if floor is not None:
            low = min(low, floor)
        spread = high - low or abs(high) or 1.0
        if floor is None:
            low -= 0.06 * spread
        high += 0.06 * spread
        self._low, self._high, self._start, self._end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        rough = (self._high - self._low) / 5
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [round(i * step, 12) for i in range(first, last + 1)]


class _LogAxis:
    """Positive values to coordinates by their logarithms, with ticks at 1, 2, 5 and 10."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low, self._high = min(values) / 1.5, max(values) * 1.5
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        decades = math.log10(self._high / self._low)
        steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)
        powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps]
        return [tick for tick in ticks if self._low <= tick <= self._high]


def _frame(
    x_axis: _LinearAxis | _LogAxis,
    y_axis: _LinearAxis,
    x_label: str,
    y_label: str,
    *,
    percent: bool,
) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in y_axis.ticks():
        y, text = y_axis(tick), f"{100 * tick:g}" if percent else f"{tick:g}".replace("-", "−")
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for tick in x_axis.ticks():
        x = x_axis(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_round(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    parts.append(
        f'<text class="name" transform="rotate(-90)" x="{-(TOP + bottom) / 2}" y="11" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _round(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _marker(index: int, is_teacher: bool, x: float, y: float) -> str:
    shape = "diamond" if is_teacher else MARKERS[index % len(MARKERS)]
    style = f"mark {colour_class(index, is_teacher)}"
    if shape == "circle":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.6"/>'
    outline = {
        "diamond": "m0 -6.2l6.2 6.2l-6.2 6.2l-6.2 -6.2z",
        "square": "m-4.2 -4.2h8.4v8.4h-8.4z",
        "up": "m0 -5.6l5.4 9.6h-10.8z",
        "down": "m0 5.6l5.4 -9.6h-10.8z",
        "cross": "m-2 -5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
    }[shape]
    return f'<path class="{style}" d="M{x:.1f} {y:.1f}{outline}"/>'


def _numbers(places: Sequence[tuple[float, float, int]]) -> list[str]:
    """The models' numbers beside their points; points that touch share one label."""
    groups: list[list[tuple[float, float, int]]] = []
    for place in places:
        for group in groups:
            if any(
                abs(other[0] - place[0]) < TOUCHING and abs(other[1] - place[1]) < TOUCHING
                for other in group
            ):
                group.append(place)
                break
        else:
            groups.append([place])
    texts = []
    for group in groups:
        right = max(x for x, _, _ in group)
        top = min(y for _, y, _ in group)
        anchor, x = ("end", right - 8) if right > WIDTH - RIGHT - 24 else ("start", right + 8)
        label = ", ".join(str(number) for _, _, number in group)
        texts.append(
            f'<text class="number" x="{x:.1f}" y="{top - 4:.1f}" text-anchor="{anchor}">'
            f"{label}</text>"
        )
    return texts
