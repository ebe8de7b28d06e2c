"""Quality against size, and quality against latency, as PNG files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.rows import ModelRow

matplotlib.use("Agg")

TEACHER_COLOUR, STUDENT_COLOUR = "#b5423c", "#2f6f9f"


def plot_quality(rows: Sequence[ModelRow], benchmark: str, out: Path) -> list[Path]:
    """Write quality-vs-size.png and quality-vs-latency.png; their paths.

    The left panel is what counts, greedy pass@1 with its interval; small students often share
    its floor, so BLEU stands beside it.
    """
    return [
        _plot(
            rows,
            lambda row: row.size_bytes / 1e6,
            "size of the weights (MB, log scale)",
            f"{benchmark}: quality against size",
            out / "quality-vs-size.png",
        ),
        _plot(
            rows,
            lambda row: row.latency.median_ms,
            "median latency of one generation (ms, log scale)",
            f"{benchmark}: quality against latency",
            out / "quality-vs-latency.png",
        ),
    ]


def _plot(
    rows: Sequence[ModelRow],
    cost: Callable[[ModelRow], float],
    cost_label: str,
    title: str,
    path: Path,
) -> Path:
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    costs = [cost(row) for row in rows]
    passed = [100 * row.greedy_pass_at_1 for row in rows]
    below = [p - 100 * row.greedy_interval[0] for p, row in zip(passed, rows, strict=True)]
    above = [100 * row.greedy_interval[1] - p for p, row in zip(passed, rows, strict=True)]
    for row, x, y, low, high in zip(rows, costs, passed, below, above, strict=True):
        left.errorbar(
            x, y, yerr=[[max(0, low)], [max(0, high)]], fmt="none", ecolor="#bbbbbb", capsize=3
        )
        _point(left, row, x, y)
    for row, x in zip(rows, costs, strict=True):
        _point(right, row, x, row.bleu)
    left.set_ylabel("greedy pass@1 (%), 95 % interval over problems")
    right.set_ylabel("BLEU of the completions")
    for axes, values in (
        (left, [100 * row.greedy_interval[1] for row in rows]),
        (right, [row.bleu for row in rows]),
    ):
        _dress(axes, costs, max(values), cost_label)
        _label(axes, rows, costs, passed if axes is left else [row.bleu for row in rows])
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    return path


def _point(axes: Axes, row: ModelRow, x: float, y: float) -> None:
    colour = TEACHER_COLOUR if row.is_teacher else STUDENT_COLOUR
    marker = "D" if row.is_teacher else "o"
    axes.plot(x, y, marker, color=colour, markersize=8, zorder=3)


def _dress(axes: Axes, costs: Sequence[float], highest: float, cost_label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    top = max(highest * 1.3, 1.0)
    axes.set_ylim(-0.04 * top, top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(cost_label)
    axes.grid(alpha=0.25)


def _label(axes: Axes, rows: Sequence[ModelRow], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Names beside the points: towards the middle, and above one another where they collide."""
    axes.figure.canvas.draw()
    placed: list[tuple[float, float, float]] = []
    for index in sorted(range(len(rows)), key=lambda i: (ys[i], xs[i])):
        x, y = axes.transData.transform((xs[index], ys[index]))
        box = axes.get_window_extent()
        to_left = x > box.x0 + box.width / 2
        width = 7.0 * len(rows[index].label) + 12
        start = x - width if to_left else x
        height = y + 6
        while any(
            abs(height - other) < 14 and start < end and begin < start + width
            for begin, end, other in placed
        ):
            height += 14
        placed.append((start, start + width, height))
        axes.annotate(
            rows[index].label,
            (xs[index], ys[index]),
            xytext=(-8 if to_left else 8, (height - y) * 72 / axes.figure.dpi),
            textcoords="offset points",
            ha="right" if to_left else "left",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.6},
        )
