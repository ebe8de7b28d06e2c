"""The report's tables: quality, agreement and cost of every model, without empty columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation.details import short
from evaluation.outcomes import group_outcomes
from evaluation.page.charts import key

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table of models."""

    name: str
    meaning: str
    """One sentence, shown under the mouse and read out."""
    cell: Callable[[Row], str | None]
    """HTML; None where the model has no such value."""


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
        model_table("Quality", rows, _quality_columns(rows))
        + model_table("Agreement with the teacher on held-out text", rows, _agreement_columns(rows))
        + model_table("Cost", rows, COST_COLUMNS)
    )


def contamination_table(rows: Sequence[Row]) -> str:
    """Pass rates over all problems, and over those that share nothing with the training text."""
    columns = [
        _rate("greedy pass@1", "Over all problems.", ("greedy_pass_at_1",)),
        _rate(
            "uncontaminated",
            "Greedy pass@1 over the problems that share nothing with the training documents.",
            ("greedy_pass_at_1_uncontaminated",),
        ),
    ]
    for k in sampled_ks(rows):
        columns += [
            _rate(f"pass@{k}", "Over all problems.", ("pass_at", k)),
            _rate(
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


def _star(row: Row) -> str:
    return "*" if "computed" in row["size_source"] else ""


def percent(value: float | None) -> str | None:
    """A share as percent, with one digit."""
    return None if value is None else f"{100 * value:.1f} %"


def sampled_ks(rows: Sequence[Row]) -> list[str]:
    """Every k of pass@k, from small to large."""
    return sorted({k for row in rows for k in row["pass_at"]}, key=int)


def _plain(name: str, meaning: str, cell: Callable[[Row], str | None]) -> Column:
    return Column(name=name, meaning=meaning, cell=cell)


def _number(name: str, meaning: str, *path: str, form: str = "{}", scale: float = 1.0) -> Column:
    """The number at a path of keys, three digits of it, with its `_interval` if it has one."""

    def cell(row: Row) -> str | None:
        value, interval = look_up(row, path), look_up(row, (*path[:-1], f"{path[-1]}_interval"))
        if value is None:
            return None
        text = form.format(short(scale * value))
        if not interval:
            return text
        low, high = (short(scale * end) for end in interval)
        return f"{text}<small>{low} to {high}</small>"

    return Column(name=name, meaning=meaning, cell=cell)


def look_up(row: Any, path: Sequence[str]) -> Any:
    """The value at a path of keys; None where it ends early."""
    for name in path:
        if not isinstance(row, Mapping):
            return None
        row = row.get(name)
    return row


def _rate(
    name: str, meaning: str, path: tuple[str, ...], interval: tuple[str, ...] = (), sign: str = ""
) -> Column:
    """The share at a path of keys as percent, with the interval at another."""

    def cell(row: Row) -> str | None:
        value, ends = look_up(row, path), look_up(row, interval) if interval else None
        if value is None:
            return None
        text = f"{100 * value:{sign}.1f} %".replace("-", "−")
        if not ends:
            return text
        low, high = (f"{100 * end:{sign}.1f}".replace("-", "−") for end in ends)
        return f"{text}<small>{low} to {high}</small>"

    return Column(name=name, meaning=meaning, cell=cell)


def _against(name: str, meaning: str, cell: Callable[[Mapping[str, Any]], str | None]) -> Column:
    """A column of the comparison with the teacher, empty where there is none."""
    return _plain(
        name, meaning, lambda row: cell(row["comparison"]) if row.get("comparison") else None
    )


def _quality_columns(rows: Sequence[Row]) -> list[Column]:
    columns = [
        _rate(
            "greedy pass@1",
            "Problems solved by the greedy completion; 95 % Wilson interval over problems.",
            ("greedy_pass_at_1",),
            ("greedy_interval",),
        )
    ]
    columns += [
        _rate(
            f"pass@{k}",
            f"Unbiased pass@{k} of the samples; 95 % bootstrap interval over problems.",
            ("pass_at", k),
            ("pass_at_intervals", k),
        )
        for k in sampled_ks(rows)
    ]
    return [
        *columns,
        _number(
            "of the teacher's",
            "Greedy pass@1 in percent of the teacher's; 95 % paired bootstrap interval.",
            "comparison", "kept_percent", form="{} %",
        ),
        _rate(
            "difference",
            "Greedy pass@1 minus the teacher's, in points; 95 % paired interval (Newcombe).",
            ("comparison", "greedy_difference"),
            ("comparison", "greedy_difference_interval"),
            "+",
        ),
        _against(
            "McNemar p",
            "Two-sided exact p that the problems solved by one alone fall to either alike.",
            lambda c: "< 0.0001" if c["mcnemar_p"] < 1e-4 else f"{c['mcnemar_p']:.4f}",
        ),
        _against(
            "both / it / teacher",
            "Problems solved by both, by this model alone, by the teacher alone.",
            lambda c: f"{c['both']} / {c['only_student']} / {c['only_teacher']}",
        ),
        _number("BLEU", "Of the greedy completions alone against canonical solutions.", "bleu"),
    ]  # fmt: skip


def _agreement_columns(rows: Sequence[Row]) -> list[Column]:
    columns = []
    for scope, where in (("whole", ""), ("completion", " in code")):
        tokens = "every token" if scope == "whole" else "the tokens after the prompt"
        path = ("agreement", scope)
        columns += [
            _number(
                f"KL{where}",
                f"KL(teacher ‖ model) at T = 1 over {tokens}, nats a token; 95 % bootstrap "
                "interval over documents.",
                *path,
                "kl",
            ),
            _rate(
                f"top-1{where}",
                f"Share of {tokens} where both have the same most likely token; 95 % bootstrap "
                "interval over documents.",
                (*path, "top1"),
                (*path, "top1_interval"),
            ),
        ]
    return [
        *columns,
        _rate(
            "top-5",
            "Share of tokens where the teacher's most likely one is among the model's five.",
            ("agreement", "whole", "top5"),
        ),
        _with_teacher(rows, "cross-entropy", "Of the tokens that follow, nats.", "cross_entropy"),
        _with_teacher(rows, "perplexity", "exp of the cross-entropy.", "perplexity"),
        _with_teacher(
            rows, "bits per byte", "Cross-entropy in bits over bytes of text.", "bits_per_byte"
        ),
    ]  # fmt: skip


def _with_teacher(rows: Sequence[Row], name: str, meaning: str, field: str) -> Column:
    """A measure of agreement that the teacher has too; it stands in the students' rows."""
    teachers = [look_up(row, ("agreement", "whole", f"teacher_{field}")) for row in rows]
    teacher = next((value for value in teachers if value is not None), None)

    def cell(row: Row) -> str | None:
        value = look_up(row, ("agreement", "whole", field))
        if value is None and row["is_teacher"]:
            value = teacher
        return None if value is None else short(value)

    return _plain(name, meaning, cell)


COST_COLUMNS = [
    _number("parameters", "Tied ones once.", "parameters", form="{} M", scale=1e-6),
    _plain(
        "size",
        "Of the .safetensors files; * where computed from parameters and dtype.",
        lambda row: f"{short(row['size_bytes'] / 1e6)} MB{_star(row)}",
    ),
    _number("compression", "The teacher's bytes over this one's.", "compression", form="{}×"),
    _number("median", "Of one generation, alone.", "latency", "median_ms", form="{} ms"),
    _number("p95", "95th percentile of one generation.", "latency", "p95_ms", form="{} ms"),
    _number(
        "first token", "Median time to the first token.", "latency", "first_token_ms", form="{} ms"
    ),
    _number(
        "per token", "Median time of each further token.", "latency", "per_token_ms", form="{} ms"
    ),
    _number("tokens/s", "New tokens over time, alone.", "latency", "tokens_per_second"),
    _number(
        "batched tokens/s",
        "New tokens of all rows over time, in batches.",
        "latency", "batched", "tokens_per_second",
    ),
    _number("speed-up", "The teacher's mean latency over this one's.", "speedup", form="{}×"),
    _number(
        "peak memory", "Most the CUDA device held.", "peak_memory_bytes", form="{} MB", scale=1e-6
    ),
]  # fmt: skip
