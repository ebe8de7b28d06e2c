"""What a sweep has cost and saved, as a PNG file."""

from pathlib import Path

import numpy as np

from distill.run.plots import COLOURS, empty_plot, label_axes
from distill.sweeps.ledger import Ledger


def plot_ledger(ledger: Ledger, folder: Path) -> Path | None:
    """`ledger.png`: FLOPs after each student, with the cache and with the teacher in the loop.

    Nothing is drawn where the teacher's size is not known.
    """
    once = ledger.teacher_flops(ledger.cache_tokens)
    if once is None or not ledger.runs:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    students = np.cumsum([0, *(6.0 * run.num_parameters * run.num_tokens for run in ledger.runs)])
    teacher = np.cumsum(
        [0, *(ledger.teacher_flops(run.teacher_tokens) or 0 for run in ledger.runs)]
    )
    figure, axes = empty_plot()
    for flops, label, colour in (
        (students + teacher, "teacher in the loop", COLOURS[1]),
        (students + once, "from the cache, its building included", COLOURS[0]),
    ):
        axes.plot(range(len(flops)), flops, color=colour, linewidth=2, marker="o", label=label)
    axes.set_ylim(bottom=0)
    label_axes(axes, "Compute of the sweep", "students trained", "FLOPs in all, computed")
    path = folder / "ledger.png"
    figure.savefig(path)
    return path
