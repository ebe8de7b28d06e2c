"""Quality against size, and quality against latency, as PNG files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.comparison.model_row import ModelRow

TEACHER_COLOUR, STUDENT_COLOUR = "#b5423c", "#2f6f9f"
TOUCHING_PIXELS = 14


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
    figure = Figure(figsize=(11, 4.4 + 0.22 * (len(rows) // 3)), layout="constrained")
    left, right = figure.subplots(1, 2)
    costs = [cost(row) for row in rows]
    passed = [100 * row.greedy_pass_at_1 for row in rows]
    highs = [100 * row.greedy_interval[1] for row in rows]
    for row, x, y, high in zip(rows, costs, passed, highs, strict=True):
        spread = [[max(0.0, y - 100 * row.greedy_interval[0])], [max(0.0, high - y)]]
        left.errorbar(x, y, yerr=spread, fmt="none", ecolor="#bbbbbb", capsize=3)
    left.set_ylabel("greedy pass@1 (%), 95 % interval over problems")
    right.set_ylabel("BLEU of the completions")
    bleus = [row.bleu for row in rows]
    for axes, values, highest in ((left, passed, max(highs)), (right, bleus, max(bleus))):
        for row, x, y in zip(rows, costs, values, strict=True):
            axes.plot(x, y, **_marker(row), zorder=3)
        _dress(axes, costs, highest, cost_label)
    handles = [
        Line2D([], [], linestyle="", label=f"{number}  {row.label}", **_marker(row))
        for number, row in enumerate(rows, 1)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    figure.draw_without_rendering()  # fixes the layout, so that distances on it are final
    _number(left, costs, passed)
    _number(right, costs, bleus)
    figure.savefig(path, dpi=150)
    return path


def _marker(row: ModelRow) -> dict[str, Any]:
    if row.is_teacher:
        return {"marker": "D", "color": TEACHER_COLOUR, "markersize": 8}
    return {"marker": "o", "color": STUDENT_COLOUR, "markersize": 8}


def _dress(axes: Axes, costs: Sequence[float], highest: float, cost_label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.6, max(costs) * 1.6)
    top = max(highest * 1.15, 1.0)
    axes.set_ylim(-0.04 * top, top)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(cost_label)
    axes.grid(alpha=0.25)


def _number(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    """The models' numbers beside their points; points that touch share one label."""
    points = axes.transData.transform(list(zip(xs, ys, strict=True)))
    groups: list[list[int]] = []
    for index, point in enumerate(points):
        for group in groups:
            if any(abs(points[other] - point).max() < TOUCHING_PIXELS for other in group):
                group.append(index)
                break
        else:
            groups.append([index])
    for group in groups:
        highest = max(group, key=lambda index: ys[index])
        axes.annotate(
            ", ".join(str(index + 1) for index in group),
            (xs[highest], ys[highest]),
            xytext=(7, 5),
            textcoords="offset points",
        )
