"""What a sweep prints: its runs, their sizes and costs."""

from collections.abc import Collection, Sequence

from rich import box
from rich.table import Table

from distill.run.card import LABELS_ALONE, YARDSTICK_NAMES, shown_yardstick
from distill.sweeps.baselines import Gain
from distill.sweeps.ledger import Ledger
from distill.sweeps.result import SweepResult
from distill.sweeps.run_size import RunSize

SWEEP_CAPTION = (
    "KL from the teacher at T = 1, cross-entropy and top-1 agreement are over all tokens of the "
    "validation split and compare any two runs (with the same validation_documents, where a recipe "
    "has any). Losses are at each run's own settings."
)


GAINS_CAPTION = (
    "The last validation beside that of the same recipe on labels alone: nats a token less, and "
    "points more in top-1 agreement."
)


def sweep_table(result: SweepResult, labels_alone: Collection[str] = ()) -> Table:
    """A line for each run of a sweep: status, what compares it, its own losses, time.

    Args:
        labels_alone: names of the runs that learn nothing from the teacher, which are marked.
    """
    table = Table(
        title="Sweep",
        title_justify="left",
        caption=SWEEP_CAPTION,
        caption_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    # A name may be folded where the terminal is narrow; a number is never cut.
    table.add_column("recipe", overflow="fold")
    table.add_column("status", no_wrap=True)
    for heading in ("KL", "cross-ent.", "top-1", "train loss", "val loss", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in result.runs:
        losses = run.losses or {}
        numbers = [
            shown_yardstick(name, losses[f"val_{name}"]) if f"val_{name}" in losses else "-"
            for name in YARDSTICK_NAMES
        ]
        for name in ("train_loss", "val_loss"):
            numbers.append(f"{losses[name]:.4f}" if name in losses else "-")
        seconds = "-" if run.seconds is None else f"{run.seconds:,.0f}"
        name = f"{run.name} ({LABELS_ALONE})" if run.name in labels_alone else run.name
        table.add_row(name, run.status, *numbers, seconds)
    return table


def gains_table(gains: Sequence[Gain]) -> Table:
    """A line for each run that has a baseline: how much better it is."""
    table = Table(
        title=f"Gain over {LABELS_ALONE}",
        title_justify="left",
        caption=GAINS_CAPTION,
        caption_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("recipe", overflow="fold")
    for heading in ("KL", "cross-ent.", "top-1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("baseline", overflow="fold")
    for gain in gains:
        numbers = (f"{gain.kl:+.4f}", f"{gain.cross_entropy:+.4f}", f"{100 * gain.top1:+.1f}")
        table.add_row(gain.name, *numbers, gain.baseline)
    return table


def size_words(sizes: Sequence[RunSize]) -> str:
    """How many runs a sweep has, and how much work they are."""
    return (
        f"{len(sizes)} {'run' if len(sizes) == 1 else 'runs'}, "
        f"{sum(size.num_tokens for size in sizes):,} training tokens, "
        f"{sum(size.num_steps for size in sizes):,} optimizer steps"
    )


def plan_table(sizes: Sequence[RunSize]) -> Table:
    """A line for each run that a sweep would train: how large it is."""
    table = Table(title=size_words(sizes), title_justify="left", box=box.SIMPLE)
    table.add_column("recipe", no_wrap=True)
    for heading in ("parameters", "epochs", "training tokens", "steps"):
        table.add_column(heading, justify="right")
    for size in sizes:
        numbers = (size.num_parameters, size.num_epochs, size.num_tokens, size.num_steps)
        table.add_row(size.recipe.name, *(f"{number:,}" for number in numbers))
    return table


def ledger_table(ledger: Ledger) -> Table:
    """What the students cost, beside what they would have cost with the teacher in the loop."""
    once, loop = ledger.cache_tokens, ledger.loop_tokens
    table = Table(title="Costs", title_justify="left", box=box.SIMPLE)
    table.add_column("")
    for heading in ("from the cache", "teacher in the loop", "saved"):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("teacher's tokens", once, loop, ",.0f"),
        ("teacher's FLOPs", ledger.teacher_flops(once), ledger.teacher_flops(loop), ".3g"),
        ("teacher's seconds", ledger.cache_seconds, ledger.loop_seconds, ",.1f"),
        ("students' FLOPs", ledger.student_flops, ledger.student_flops, ".3g"),
        ("students' seconds", ledger.student_seconds, ledger.student_seconds, ",.1f"),
    ]
    for name, cached, in_loop, form in rows:
        if cached is not None and in_loop is not None:
            saved = "" if name.startswith("students") else format(in_loop - cached, form)
            table.add_row(name, format(cached, form), format(in_loop, form), saved)
    return table


def ledger_words(ledger: Ledger) -> str:
    """When the cache has paid for itself, and what of the ledger was measured."""
    epochs = ledger.break_even_epochs
    paid = f"{ledger.teacher_epochs} were trained" + (
        f"; it paid with {ledger.paid_by}." if ledger.paid_by else ", too few so far."
    )
    lines = [
        f"The cache pays for itself after {epochs:.1f} epochs of students that learn from its "
        f"teacher: {paid}",
        "Measured: tokens, seconds of building the cache and of the students' steps. Computed: "
        "FLOPs (2 and 6 · parameters · tokens), and the loop's seconds at the build's speed.",
    ]
    alone = [run.name for run in ledger.runs if not run.learns_from_teacher]
    if alone:
        lines.append(
            f"On {LABELS_ALONE}, for which no loop would ask a teacher: {', '.join(alone)}."
        )
    if ledger.teacher_parameters is None:
        lines.append("The cache does not say how large its teacher is: give --teacher-parameters.")
    return "\n".join(lines)
