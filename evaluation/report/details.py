"""The columns that no single table has room for: agreement and latency, as texts and as numbers."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from evaluation.agreement.scores import SCOPES
from evaluation.comparison.model_row import ModelRow
from evaluation.metrics.intervals import Interval

GIB = 1 << 30
NARROW = ("model", "text", "KL", "top-1", "bits/byte")
"""Columns of `agreement_table` that a terminal has room for."""


def short(value: float) -> str:
    """Three digits or more: 3,030, 44.3, 1.27."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def agreement_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """One line for each model and scope that was measured; none where nothing was.

    KL is in nats a token, top-1 and top-5 are shares of rows; 95 % intervals in brackets.
    """
    lines = []
    for row in rows:
        for scope in SCOPES:
            scores = getattr(row.agreement, scope, None)
            if scores is None:
                continue
            lines.append(
                {
                    "model": row.label,
                    "text": scope,
                    "rows": f"{scores.num_rows:,}",
                    "KL": _interval(f"{scores.kl:.3f}", scores.kl_interval, ".3f"),
                    "top-1": _interval(f"{scores.top1:.1%}", scores.top1_interval, ".1%"),
                    "top-5": f"{scores.top5:.1%}",
                    "perplexity": f"{scores.perplexity:,.2f}",
                    "teacher perplexity": f"{scores.teacher_perplexity:,.2f}",
                    "bits/byte": _number(scores.bits_per_byte, ".3f"),
                    "teacher bits/byte": _number(scores.teacher_bits_per_byte, ".3f"),
                }
            )
    return lines


def likeness_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """One line for each model: its greedy completions cut at stop sequences, and raw."""
    return [
        {
            "model": row.label,
            "BLEU": f"{row.bleu:.1f}",
            "BLEU raw": _number(row.bleu_raw, ".1f"),
            "CodeBLEU": _number(row.codebleu, ".1f"),
            "CodeBLEU raw": _number(row.codebleu_raw, ".1f"),
        }
        for row in rows
    ]


def latency_table(rows: Iterable[ModelRow]) -> list[dict[str, str]]:
    """One line for each model and size of batch.

    Medians and 95th percentiles: to the first token, for each next one, and of all of them. GiB
    is the most the CUDA device held.
    """
    lines = []
    for row in rows:
        for times in (row.latency, row.latency.batched):
            if times is None:
                continue
            peak = times.peak_memory_bytes
            lines.append(
                {
                    "model": row.label,
                    "batch": str(times.batch),
                    "first ms": f"{times.first_token_ms:,.1f}",
                    "first p95": f"{times.first_token_p95_ms:,.1f}",
                    "next ms": _number(times.per_token_ms, ",.2f"),
                    "next p95": _number(times.per_token_p95_ms, ",.2f"),
                    "all ms": f"{times.median_ms:,.0f}",
                    "all p95": f"{times.p95_ms:,.0f}",
                    "tok/s": f"{times.tokens_per_second:,.1f}",
                    "GiB": "–" if peak is None else f"{peak / GIB:.2f}",
                }
            )
    return lines


def agreement_numbers(row: ModelRow) -> dict[str, Any]:
    """Agreement as plain columns; None where it was not measured."""
    columns: dict[str, Any] = {}
    for scope in SCOPES:
        scores = getattr(row.agreement, scope, None)
        found = {} if scores is None else asdict(scores)
        for name in ("kl", "top1"):
            low, high = found.get(f"{name}_interval") or (None, None)
            title = "top1_agreement" if name == "top1" else name
            columns |= {
                f"{title}_{scope}": found.get(name),
                f"{title}_{scope}_low": low,
                f"{title}_{scope}_high": high,
            }
        columns[f"top5_agreement_{scope}"] = found.get("top5")
        for name in ("cross_entropy", "perplexity", "bits_per_byte"):
            columns[f"{name}_{scope}"] = found.get(name)
            columns[f"teacher_{name}_{scope}"] = found.get(f"teacher_{name}")
    return columns


def latency_numbers(row: ModelRow) -> dict[str, Any]:
    """Parts of a generation and batches as plain columns; None where not measured."""
    columns: dict[str, Any] = {}
    for suffix, times in (("", row.latency), ("_batched", row.latency.batched)):
        found = {} if times is None else asdict(times)
        columns |= {
            f"first_token_ms{suffix}": found.get("first_token_ms"),
            f"first_token_p95_ms{suffix}": found.get("first_token_p95_ms"),
            f"per_token_ms{suffix}": found.get("per_token_ms"),
            f"per_token_p95_ms{suffix}": found.get("per_token_p95_ms"),
        }
        if suffix:
            for name in ("mean_ms", "median_ms", "p95_ms"):
                columns[f"latency_{name}{suffix}"] = found.get(name)
            columns[f"tokens_per_second{suffix}"] = found.get("tokens_per_second")
        columns[f"latency_peak_memory_bytes{suffix}"] = found.get("peak_memory_bytes")
    return columns


def _interval(text: str, interval: Interval | None, form: str) -> str:
    if interval is None:
        return text
    return f"{text} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
