"""The report's tables: quality, agreement and cost of every model, without empty columns."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from evaluation.judging.outcomes import group_outcomes
from evaluation.page.charts import key
from evaluation.page.columns import (
    COST_COLUMNS,
    Column,
    Row,
    agreement_columns,
    quality_columns,
    rate,
    sampled_ks,
)


def model_table(caption: str, rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A row a model; columns that no model has are left out, and nothing of an empty table."""
    filled = [
        (column, cells) for column in columns if any(cells := [column.cell(row) for row in rows])
    ]
    if not filled:
        return ""
    heads = "".join(
        f'<th scope="col"><abbr title="{escape(column.meaning)}">{escape(column.name)}</abbr></th>'
        for column, _ in filled
    )
    lines = [
        f'<tr><th scope="row">{model_name(index, row)}</th>'
        + "".join(f"<td>{cells[index] or '–'}</td>" for _, cells in filled)
        + "</tr>"
        for index, row in enumerate(rows)
    ]
    return table(caption, f'<th scope="col">model</th>{heads}', lines)


def table(caption: str, heads: str, lines: Sequence[str]) -> str:
    """A table under its caption, which scrolls inside its own box."""
    return (
        f"<h3>{escape(caption)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table aria-label="{escape(caption)}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def model_name(index: int, row: Row) -> str:
    """Marker, number and label of a model."""
    tag = ' <span class="tag">teacher</span>' if row["is_teacher"] else ""
    label = re.sub(r"([/_-])", r"\1<wbr>", escape(row["label"]))
    return f'<span class="model">{model_number(index, row)}<span>{label}{tag}</span></span>'


def model_number(index: int, row: Row) -> str:
    """Marker and number of a model, where its label would take too much room."""
    return f"<span>{key(index, row['is_teacher'])}{index + 1}</span>"


def summary_tables(rows: Sequence[Row]) -> str:
    """What the models can do, how they agree with the teacher, and what they cost."""
    return (
        model_table("Quality", rows, quality_columns(rows))
        + model_table("Agreement with the teacher on held-out text", rows, agreement_columns(rows))
        + model_table("Cost", rows, COST_COLUMNS)
    )


def contamination_table(rows: Sequence[Row]) -> str:
    """Pass rates over all problems, and over those that share nothing with the training text."""
    columns = [
        rate("greedy pass@1", "Over all problems.", ("greedy_pass_at_1",)),
        rate(
            "uncontaminated",
            "Greedy pass@1 over the problems that share nothing with the training documents.",
            ("greedy_pass_at_1_uncontaminated",),
        ),
    ]
    for k in sampled_ks(rows):
        columns += [
            rate(f"pass@{k}", "Over all problems.", ("pass_at", k)),
            rate(
                "uncontaminated",
                f"Sampled pass@{k} over the problems that share nothing.",
                ("pass_at_uncontaminated", k),
            ),
        ]
    return model_table("Pass rates with and without shared problems", rows, columns)


def outcome_table(caption: str, rows: Sequence[Row], field: str, chips: Mapping[str, str]) -> str:
    """Counts by kind of outcome, a column a model; `chips` gives the kinds' colours."""
    counts = [group_outcomes(row[field]) for row in rows]
    heads = '<th scope="col">outcome</th>' + "".join(
        f'<th scope="col" title="{escape(row["label"])}">{model_number(index, row)}</th>'
        for index, row in enumerate(rows)
    )
    lines = [
        f'<tr><th scope="row"><span class="chip {style}"></span>{escape(kind)}</th>'
        + "".join(f"<td>{_count(count.get(kind))}</td>" for count in counts)
        + "</tr>"
        for kind, style in chips.items()
        if any(kind in count for count in counts)
    ]
    limits = [row.get("failed_at_token_limit", {}).get(field.split("_")[0]) for row in rows]
    if any(limits):
        lines.append(
            '<tr><th scope="row">failed at the token limit</th>'
            + "".join(f"<td>{_count(limit)}</td>" for limit in limits)
            + "</tr>"
        )
    return table(caption, heads, lines)


def _count(count: int | None) -> str:
    return f"{count:,}" if count else "–"
