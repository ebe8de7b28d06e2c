"""The columns of the report's tables: what each says of a model, and how.

A cell without a value is None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.report.details import short

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table of models."""

    name: str
    meaning: str
    """One sentence, shown under the mouse and read out."""
    cell: Callable[[Row], str | None]
    """HTML; None where the model has no such value."""


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


def rate(
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


def quality_columns(rows: Sequence[Row]) -> list[Column]:
    """What the models can do, and how that compares with the teacher."""
    columns = [
        rate(
            "greedy pass@1",
            "Problems solved by the greedy completion; 95 % Wilson interval over problems.",
            ("greedy_pass_at_1",),
            ("greedy_interval",),
        )
    ]
    columns += [
        rate(
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
        rate(
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


def agreement_columns(rows: Sequence[Row]) -> list[Column]:
    """How the models agree with the teacher on held-out text."""
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
            rate(
                f"top-1{where}",
                f"Share of {tokens} where both have the same most likely token; 95 % bootstrap "
                "interval over documents.",
                (*path, "top1"),
                (*path, "top1_interval"),
            ),
        ]
    return [
        *columns,
        rate(
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


def _star(row: Row) -> str:
    return "*" if "computed" in row["size_source"] else ""


COST_COLUMNS: Sequence[Column] = [
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
