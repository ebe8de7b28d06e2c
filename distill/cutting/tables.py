"""What `init-student` prints when it is done: a rich table."""

from rich import box
from rich.table import Table

from distill.cutting.init_student import CutResult


def cut_table(result: CutResult) -> Table:
    """Layers, size, what the cut costs, and place of a student."""
    origin = result.origin
    table = Table(title="Student", title_justify="left", show_header=False, box=box.SIMPLE)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("cut from", origin.teacher)
    layers = ", ".join(map(str, origin.kept_layers))
    if origin.chosen_by == "all":
        table.add_row("layers", f"all {origin.teacher_layers}")
    else:
        table.add_row("layers", f"{len(origin.kept_layers)} of {origin.teacher_layers}: {layers}")
        table.add_row("chosen by", origin.chosen_by)
    if origin.feed_forward is not None:
        table.add_row(
            "neurons", f"{origin.feed_forward:,} of {origin.teacher_feed_forward:,} a layer"
        )
    if origin.kept_kv_heads is not None:
        kept = len(origin.kept_kv_heads[0])
        table.add_row("key-value heads", f"{kept} of {origin.teacher_kv_heads} a layer")
    if origin.reconstructed_on is not None:
        table.add_row("reconstructed on", f"{origin.reconstructed_on:,} tokens")
    table.add_row("parameters", f"{result.num_parameters:,}")
    if origin.kl_before_training is not None:
        table.add_row("KL before training", f"{origin.kl_before_training:.4f} nats a token, T = 1")
        table.add_row("measured on", str(origin.measured_on))
    table.add_row("folder", str(result.out))
    return table
