"""What training and sweeps print when they are done: rich tables."""

from dataclasses import asdict

from rich import box
from rich.table import Table

from distill.run.card import (
    LABELS_ALONE,
    LOSS_NAMES,
    YARDSTICK_NAMES,
    best_words,
    shown_yardstick,
    trained_words,
)
from distill.run.result import TrainResult


def summary_table(result: TrainResult) -> Table:
    """Losses, time and place of one finished run."""
    table = Table(title=result.recipe.name, title_justify="left", show_header=False, box=box.SIMPLE)
    table.add_column(style="bold")
    table.add_column()
    if not result.recipe.learns_from_teacher:
        table.add_row("learned from", LABELS_ALONE)
    table.add_row("parameters", f"{result.num_parameters:,}")
    if result.num_trained != result.num_parameters:
        table.add_row("that learned", trained_words(result.num_trained, asdict(result.recipe)))
    table.add_row("steps", f"{result.num_steps:,}")
    table.add_row("time in steps", f"{result.seconds:,.1f} s, {result.tokens_per_s:,.0f} tokens/s")
    for name, label in YARDSTICK_NAMES.items():
        if f"val_{name}" in result.losses:
            table.add_row(label, shown_yardstick(name, result.losses[f"val_{name}"]))
    for name, label in LOSS_NAMES.items():
        parts = [f"train {result.losses[f'train_{name}']:.4f}"]
        if f"val_{name}" in result.losses:
            parts.append(f"validation {result.losses[f'val_{name}']:.4f}")
        table.add_row(label, ", ".join(parts))
    if result.best:
        table.add_row("best", best_words(result.best, result.recipe.best_by))
    if result.stopped_early:
        table.add_row("stopped", f"after step {result.num_steps}, by early_stopping")
    if result.resumed_from_step is not None:
        table.add_row("went on from", f"step {result.resumed_from_step}")
    table.add_row("folder", str(result.out))
    return table
