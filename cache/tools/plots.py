"""Pictures of fidelity: settings by size and truth, and a cache by temperature, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cache.errors import CacheError
from cache.machine.durable import atomic_path
from cache.targets.fidelity import Fidelity
from cache.targets.format import TargetFormat
from cache.tools.recommend import TriedFormat, frontier

COLOURS = {
    "renormalize": "#8a8a8a",
    "mass": "#c98a1b",
    "sampled": "#8d5a97",
    "lowrank": "#2f6f9f",
    "hidden": "#3b7d4f",
}
MARKERS = {"renormalize": "X", "mass": "s", "sampled": "^", "lowrank": "o", "hidden": "D"}
CHOSEN_COLOUR = "#b5423c"
LABEL_PIXELS = (100, 15)
"""Width and height of a name."""


def plot_settings(settings: Sequence[TriedFormat], chosen: TriedFormat, path: Path) -> None:
    """Total variation at the highest temperature against bytes a token, both on log axes."""
    figure = Figure(figsize=(9.5, 6), layout="constrained")
    axes = figure.subplots()
    for tail in dict.fromkeys(s.targets.tail for s in settings):
        points = [s for s in settings if s.targets.tail == tail]
        axes.plot(
            [s.bytes_per_row for s in points],
            [s.total_variation for s in points],
            linestyle="",
            marker=MARKERS[tail],
            color=COLOURS[tail],
            alpha=0.75,
            markersize=7,
            label=f"tail {tail}",
        )
    best = frontier(settings)
    line = [s.bytes_per_row for s in best], [s.total_variation for s in best]
    axes.plot(*line, color="black", linewidth=0.9, zorder=1, label="no other is smaller and truer")
    axes.plot(
        chosen.bytes_per_row,
        chosen.total_variation,
        linestyle="",
        marker="o",
        markersize=15,
        fillstyle="none",
        markeredgewidth=2,
        color=CHOSEN_COLOUR,
        label="recommended",
    )
    _log(axes)
    axes.margins(0.12)
    temperature = max(row.temperature for row in settings[0].result.fidelity)
    axes.set_xlabel("bytes a token on disk (log scale)")
    axes.set_ylabel(f"mean total variation at T = {temperature:g} (log scale)")
    axes.set_title("Soft targets by size and distance from the teacher's own")
    axes.legend(frameon=False, loc="lower left")
    figure.draw_without_rendering()  # fixes the layout, so that distances on it are final
    _label(axes, [chosen, *best])
    _save(figure, path)


def plot_fidelity(fidelity: Sequence[Fidelity], path: Path) -> None:
    """Total variation and KL of a cache against the temperature.

    Raises:
        CacheError: nothing was measured.
    """
    if not fidelity:
        raise CacheError(
            "There is no fidelity to plot: this cache's rows were not measured against a teacher's."
        )
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    temperatures = [row.temperature for row in fidelity]
    mean = [row.total_variation for row in fidelity]
    p99 = [row.total_variation_p99 for row in fidelity]
    kl = [row.kl for row in fidelity]
    colour = COLOURS["lowrank"]
    left.plot(temperatures, p99, "^--", color=colour, alpha=0.55, label="99th percentile of rows")
    left.plot(temperatures, mean, "o-", color=colour, label="mean")
    left.set_ylabel("total variation, ½ Σ |p - stored p|")
    left.legend(frameon=False)
    right.plot(temperatures, kl, "o-", color=colour)
    right.set_ylabel("mean KL(p ‖ stored p), nats")
    for axes, highest, values in ((left, max(p99), mean), (right, max(kl), kl)):
        finite = 0 < highest < float("inf")
        axes.set_xlim(temperatures[0] - 0.15, temperatures[-1] + 0.35)
        axes.set_ylim(-0.06 * highest if finite else 0, 1.15 * highest if finite else 1)
        axes.set_xticks(temperatures)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("temperature")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for x, y in zip(temperatures, values, strict=True):
            if y < float("inf"):
                text = f"{y:.2g}"
                axes.annotate(text, (x, y), (5, -12), textcoords="offset points", size=8)
    if max(kl) == float("inf"):
        text = "infinite: tokens that the teacher\nmay choose have no stored probability"
        right.text(0.5, 0.5, text, transform=right.transAxes, ha="center", va="center")
        right.set_yticks([])
    figure.suptitle(f"Stored targets against the teacher's own, over {fidelity[0].num_rows:,} rows")
    _save(figure, path)


def _log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Axes, settings: Sequence[TriedFormat]) -> None:
    """Name the settings, the first ones first, but for those whose name would cover another."""
    taken: list[tuple[float, float]] = []
    for setting in settings:
        place = (setting.bytes_per_row, setting.total_variation)
        x, y = axes.transData.transform(place)
        if any(
            abs(x - left) < LABEL_PIXELS[0] and abs(y - low) < LABEL_PIXELS[1]
            for left, low in taken
        ):
            continue
        taken.append((x, y))
        axes.annotate(
            _short(setting.targets), place, (9, 6), textcoords="offset points", size=8, zorder=4
        )


def _short(targets: TargetFormat) -> str:
    detail = {
        "lowrank": f" R{targets.tail_rank} {targets.tail_budget}",
        "sampled": f" {targets.tail_samples} draws",
    }.get(targets.tail, f" {targets.tail}")
    return f"k{targets.top_k}{detail}"


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
