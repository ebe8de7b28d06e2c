"""Curves of losses over optimizer steps, as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TITLES = {
    "val_kl": "KL from the teacher at T = 1, validation",
    "val_cross_entropy": "Cross-entropy of all tokens, validation",
    "val_top1": "Top-1 agreement with the teacher, validation",
    "train_loss": "Training loss",
    "train_distillation_loss": "Training distillation loss",
    "train_ce_loss": "Training cross-entropy",
    "val_loss": "Validation loss",
    "val_distillation_loss": "Validation distillation loss",
    "val_ce_loss": "Validation cross-entropy",
}
"""The plots of a run, by metric; each is also the name of a file. The first three compare runs of
any recipes."""
UNITS = {
    "kl": "KL, nats per token",
    "cross_entropy": "cross-entropy, nats per token",
    "top1": "share of tokens",
    "loss": "weighted loss, nats per token",
    "distillation_loss": "distillation loss, nats per token",
    "ce_loss": "cross-entropy, nats per token",
}
COLOURS = ("#2f6fb0", "#d1603d", "#3f9b6a", "#8a63b3", "#c49a2a", "#4bb0b8", "#b0567a", "#6b7280")


def plot_run(name: str, metrics: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Plots of one run: what compares it with others, and its losses in training and validation.

    A plot whose metric was never measured (no validation split) is not drawn.

    Args:
        name: of the run, for the titles.
        metrics: the lines of its `metrics.jsonl`.
        folder: gets the files, named `<metric>.png`.
    """
    return plot_runs({name: metrics}, folder)


def plot_runs(runs: dict[str, list[dict[str, Any]]], folder: Path) -> list[Path]:
    """The same plots with the curves of any number of runs in each."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for metric in TITLES if (path := _plot_metric(metric, runs, folder)) is not None]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values of each place, fewer at the start. Shapes (n,)."""
    totals = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (totals[ends] - totals[starts]) / (ends - starts)


def _plot_metric(metric: str, runs: dict[str, list[dict[str, Any]]], folder: Path) -> Path | None:
    figure, axes = empty_plot()
    drawn = 0
    for place, (name, metrics) in enumerate(runs.items()):
        points = [(line["step"], line[metric]) for line in metrics if line.get(metric) is not None]
        if points:
            steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
            colour = COLOURS[place % len(COLOURS)]
            draw = _draw_training if metric.startswith("train_") else _draw_validation
            draw(axes, steps, values, name if len(runs) > 1 else None, colour)
            if len(runs) == 1 and metric.startswith("val_"):
                best = values.argmax() if metric == "val_top1" else values.argmin()
                _annotate(axes, steps[best], values[best])
            drawn += 1
    if not drawn:
        return None
    title = TITLES[metric] if len(runs) > 1 else f"{TITLES[metric]}: {next(iter(runs))}"
    label_axes(axes, title, "optimizer step", UNITS[metric.split("_", 1)[1]])
    path = folder / f"{metric}.png"
    figure.savefig(path)
    return path


def empty_plot() -> tuple[Figure, Any]:
    """A figure and its axes, of the size that all plots have."""
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def label_axes(axes: Any, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and legend in the style that all plots have."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9ca3af")
    axes.tick_params(color="#9ca3af")
    axes.margins(x=0.04)
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5)


def _draw_training(
    axes: Any, steps: np.ndarray, values: np.ndarray, label: str | None, colour: str
) -> None:
    window = max(1, len(values) // 20)
    alone = label is None
    axes.plot(
        steps,
        values,
        color=colour,
        alpha=0.35 if alone else 0.18,
        linewidth=0.8,
        label="each step" if alone else None,
    )
    axes.plot(
        steps,
        smooth(values, window),
        color=colour,
        linewidth=2,
        label=f"mean of the last {window} steps" if alone else label,
    )


def _draw_validation(
    axes: Any, steps: np.ndarray, values: np.ndarray, label: str | None, colour: str
) -> None:
    axes.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=4.5, label=label)


def _annotate(axes: Any, step: float, value: float) -> None:
    axes.annotate(
        f"{value:.3f}",
        (step, value),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=8.5,
        color="#374151",
    )
