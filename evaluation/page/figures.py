"""The report's figures: quality against cost, agreement, outcomes, and loss curves."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.judging.outcomes import group_outcomes
from evaluation.page.charts import NUM_COLOURS, Line, Point, colour_class, lines, scatter
from evaluation.page.tables import kinds_table, model_name, model_number
from evaluation.report.columns import CUT, Row, look_up
from evaluation.report.forms import short
from evaluation.report.tables import DISTRIBUTIONS, sampled_ks

METRICS_FILE = "metrics.jsonl"  # beside a student's weights, one JSON object a line
MOST_POINTS = 200


class Quality(NamedTuple):
    """What a chart of quality against cost can show upwards."""

    name: str
    """As in the address of the page."""
    label: str
    path: str
    """Of the value in a row."""
    interval: str = ""
    """Path of its interval; empty where it has none."""
    sign: int = 1
    """-1 where less is better."""
    percent: bool = True


COSTS = {
    "parameters": ("parameters", "parameters"),
    "latency": ("median latency, ms", "latency.median_ms"),
    "size": ("size of the weights, bytes", "size_bytes"),
}
"""Label and path of what the charts can show sideways, by the name of their file."""


def deciding_chart(rows: Sequence[Row]) -> str:
    """Quality against speed, where it tells the models apart: pass@1, or KL where all fail."""
    found = {quality.name: quality for quality in measured_qualities(rows)}
    solves = any(row["greedy_pass_at_1"] for row in rows)
    quality = found["greedy"] if solves else found.get("kl", found["greedy"])
    return (
        f'<figure class="wide">{quality_chart(rows, quality, "latency")}<figcaption>Up is better, '
        "left is faster. The dashed line joins the models that no other beats in both; whiskers "
        "are 95 % intervals.</figcaption></figure>"
    )


def quality_charts(rows: Sequence[Row]) -> str:
    """Every quality against parameters, latency and size; the page shows one quality at a time."""
    panels: list[str] = []
    options: list[str] = []
    for quality in measured_qualities(rows):
        options.append(f'<option value="{quality.name}">{escape(quality.label)}</option>')
        charts = "".join(f"<figure>{quality_chart(rows, quality, cost)}</figure>" for cost in COSTS)
        on = " on" if not panels else ""
        panels.append(
            f'<div class="panel{on}" data-quality="{quality.name}">'
            f'<h3>{escape(quality.label)}</h3><div class="charts">{charts}</div></div>'
        )
    return (
        '<p class="tools js-only"><label>quality'
        f'<select id="quality">{"".join(options)}</select></label></p>'
        f"{''.join(panels)}{_legend(rows)}"
        '<p class="quiet">Up is better, left is cheaper; costs on logarithmic axes. The dashed '
        "line joins the models that no other beats in both. Whiskers are 95 % intervals.</p>"
    )


def measured_qualities(rows: Sequence[Row]) -> list[Quality]:
    """The qualities that some model has a value of."""
    whole = "agreement.whole"
    qualities = [
        Quality("greedy", "greedy pass@1, %", "greedy_pass_at_1", "greedy_interval"),
        *(
            Quality(f"pass{k}", f"pass@{k}, %", f"pass_at.{k}", f"pass_at_intervals.{k}")
            for k in sampled_ks(rows)
        ),
        Quality("top1", "top-1 agreement, %", f"{whole}.top1", f"{whole}.top1_interval"),
        Quality("kl", "−KL, nats a token", f"{whole}.kl", f"{whole}.kl_interval", -1, False),
        Quality("bleu", "BLEU", "bleu", percent=False),
    ]
    return [one for one in qualities if any(_comparable(row, one) is not None for row in rows)]


def _comparable(row: Row, quality: Quality) -> float | None:
    """The value that ranks a model beside others; None where it has none."""
    if quality.path.startswith("agreement") and is_cut(row):
        return None
    return look_up(row, quality.path)


def quality_chart(rows: Sequence[Row], quality: Quality, cost: str) -> str:
    """The models that have the quality, against one of the costs."""
    label, path = COSTS[cost]
    points = []
    for index, row in enumerate(rows):
        x, value = look_up(row, path), _comparable(row, quality)
        if value is None:
            continue
        ends = sorted(quality.sign * end for end in look_up(row, quality.interval) or ())
        shown = f"{100 * value:.1f} %" if quality.percent else short(value)
        points.append(
            Point(
                index=index,
                label=row["label"],
                x=x,
                y=quality.sign * value,
                low=ends[0] if ends else None,
                high=ends[1] if ends else None,
                text=f"{index + 1} {row['label']}: {shown} at {x:,.0f}",
                is_teacher=row["is_teacher"],
            )
        )
    return scatter(points, label, quality.label, percent=quality.percent)


def _legend(rows: Sequence[Row]) -> str:
    items = "".join(f"<li>{model_name(index, row)}</li>" for index, row in enumerate(rows))
    return f'<ul class="legend">{items}</ul>'


def is_cut(row: Row) -> bool:
    """Whether its agreement is over fewer tokens than that of others."""
    return bool(look_up(row, CUT))


def agreement_bars(rows: Sequence[Row]) -> str:
    """How often each model's most likely token is the teacher's; empty where unmeasured."""
    bars = []
    for index, row in enumerate(rows):
        share = look_up(row, "agreement.whole.top1")
        if share is None:
            continue
        low, high = look_up(row, "agreement.whole.top1_interval") or (share, share)
        style = colour_class(index, row["is_teacher"])
        bars.append(
            f'<span class="who">{model_name(index, row)}</span>'
            f'<span class="value">{100 * share:.1f} %{" of fewer tokens" * is_cut(row)}</span>'
            f'<span class="bar {style}"><i style="width:{100 * share:.2f}%"></i>'
            f'<b style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></b></span>'
        )
    if not bars:
        return ""
    return f'<p class="quiet">{_held_out(rows)}</p><div class="bars">{"".join(bars)}</div>'


def _held_out(rows: Sequence[Row]) -> str:
    """What the agreement was measured on."""
    found = next(row["agreement"] for row in rows if row.get("agreement"))
    teacher = "the cache's stored targets" if found["reference"] == "cache" else "the live teacher"
    return (
        "Share of tokens where the model's most likely next token is the teacher's, with its 95 % "
        f"interval: {found['whole']['num_rows']:,} tokens of {found['num_documents']:,} held-out "
        f"documents, against {teacher}."
    )


def outcome_bars(rows: Sequence[Row]) -> str:
    """What became of the completions of every model, as shares of a bar and as counts."""
    chips = _chips(rows)
    parts = []
    for caption, field in DISTRIBUTIONS.items():
        if not any(row[field] for row in rows):
            continue
        if field == "finishes":
            parts.append(kinds_table(caption, rows, field, {}))
            continue
        bars = "".join(_outcome_bar(index, row, field, chips) for index, row in enumerate(rows))
        parts.append(
            f'<h3>{caption}</h3><div class="bars">{bars}</div>'
            + kinds_table(f"{caption} by kind", rows, field, chips)
        )
    return "".join(parts)


def _outcome_bar(index: int, row: Row, field: str, chips: Mapping[str, str]) -> str:
    counts = group_outcomes(row[field])
    total = sum(counts.values())
    if not total:
        return ""
    pieces = "".join(
        f'<i class="{style}" style="width:{100 * counts[kind] / total:.3f}%" '
        f'title="{escape(kind)}: {counts[kind]}"></i>'
        for kind, style in chips.items()
        if kind in counts
    )
    said = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return (
        f'<span class="who">{model_name(index, row)}</span>'
        f'<span class="value">{counts.get("passed", 0):,} / {total:,} pass</span>'
        f'<span class="bar" role="img" aria-label="{escape(said)}">{pieces}</span>'
    )


def _chips(rows: Sequence[Row]) -> dict[str, str]:
    """The style of every kind of outcome: passed first, then by how often they are met."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["greedy_outcomes"])
        total.update(row["sampled_outcomes"])
    kinds = group_outcomes(total)
    failures = [kind for kind in kinds if kind != "passed"]
    hues = [hue for hue in range(NUM_COLOURS) if hue != 2]  # 2 is for passed
    styles = {"passed": "c2"} if "passed" in kinds else {}
    for place, kind in enumerate(failures):
        striped = " striped" if place // len(hues) % 2 else ""
        styles[kind] = f"c{hues[place % len(hues)]}{striped}"
    return styles


def loss_curves(rows: Sequence[Row]) -> str:
    """Training and validation of every student whose run left its metrics; else empty."""
    runs = [
        (index, row, found)
        for index, row in enumerate(rows)
        if not row["is_teacher"] and (found := _read_metrics(Path(row["source"]) / METRICS_FILE))
    ]
    if not runs:
        return ""
    figures = [_validation_figure(runs)] if len(runs) > 1 else []
    figures += [_run_figure(index, row, metrics) for index, row, metrics in runs]
    return f'<div class="charts">{"".join(figures)}</div>'


def _validation_figure(runs: Sequence[tuple[int, Row, list[dict[str, Any]]]]) -> str:
    """The KL at T = 1 means the same whatever a student is trained with; losses do not."""
    series = [
        Line(label=row["label"], points=points, style=colour_class(index, False), dots=True)
        for index, row, metrics in runs
        if (points := _series(metrics, "val_kl"))
    ]
    if not series:
        return ""
    said = "Validation KL from the teacher at T = 1 by step. " + "; ".join(
        f"{line.label} ends at {short(line.points[-1][1])}" for line in series
    )
    keys = " ".join(model_number(index, row) for index, row, _ in runs)
    return (
        f"<figure>{lines(series, 'step', 'validation KL at T = 1, nats', said)}"
        f"<figcaption>Comparable across runs: {keys}</figcaption></figure>"
    )


def _run_figure(index: int, row: Row, metrics: list[dict[str, Any]]) -> str:
    train, validation = _series(metrics, "train_loss"), _series(metrics, "val_loss")
    series = [
        Line(label="train", points=_thin(train), style=f"{colour_class(index, False)} faint"),
        Line(label="validation", points=validation, style="ink", dots=True),
    ]
    series = [line for line in series if line.points]
    if not series:
        return ""
    ends = "; ".join(f"{line.label} ends at {short(line.points[-1][1])}" for line in series)
    said = f"Loss of {row['label']} by step. {ends}"
    return (
        f"<figure>{lines(series, 'step', 'loss', said)}<figcaption>{model_name(index, row)}: "
        f"training (thin) and validation (dots); {ends}</figcaption></figure>"
    )


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics; none where there is no such file."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # a killed run leaves its last line torn
        if isinstance(line, dict) and "step" in line:
            found.append(line)
    return found


def _series(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in metrics if line.get(name) is not None]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS, each the mean of a stretch."""
    size = -(-len(points) // MOST_POINTS) or 1
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
        for part in stretches
    ]
