"""The page's charts of quality against cost as SVG files, for slides and for W&B."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cache.machine.durable import write_text
from evaluation.errors import EvaluationError
from evaluation.page.assets import read_asset
from evaluation.page.charts import HEIGHT, WIDTH, key
from evaluation.page.figures import COSTS, measured_qualities, quality_chart
from evaluation.report.columns import Row, label

MOST_BESIDE = 3
GAP, HEAD, LINE = 24, 48, 22


def write_chart_files(rows: Sequence[Row], benchmark: str, out: Path) -> list[Path]:
    """Write quality-vs-parameters.svg, -latency.svg and -size.svg; their paths.

    Greedy pass@1 stands first; small students often share its floor, so every other measured
    quality stands beside it.
    """
    paths = []
    for cost in COSTS:
        charts = [quality_chart(rows, quality, cost) for quality in measured_qualities(rows)]
        paths.append(out / f"quality-vs-{cost}.svg")
        sheet = _sheet(f"{benchmark}: quality against {cost}", charts, rows)
        write_text(paths[-1], sheet, EvaluationError)
    return paths


def _sheet(title: str, charts: Sequence[str], rows: Sequence[Row]) -> str:
    """Charts side by side under a title, and what their numbers stand for."""
    beside = min(MOST_BESIDE, len(charts))
    legend = HEAD + -(-len(charts) // beside) * (HEIGHT + GAP)
    width, height = GAP + beside * (WIDTH + GAP), legend + len(rows) * LINE + GAP
    parts = [f'<text class="title" x="{GAP}" y="30">{escape(title)}</text>']
    for place, chart in enumerate(charts):
        x, y = GAP + place % beside * (WIDTH + GAP), HEAD + place // beside * (HEIGHT + GAP)
        parts.append(_placed(chart, x, y, WIDTH, HEIGHT))
    for index, row in enumerate(rows):
        y = legend + index * LINE
        parts.append(_placed(key(index, row["is_teacher"]), GAP, y, 16, 16))
        text = f"{index + 1}  {label(row)}"
        parts.append(f'<text x="{GAP + 24}" y="{y + 12}">{escape(text)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">'
        f"<style>{_light_style()}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>{"".join(parts)}</svg>\n'
    )


def _placed(drawn: str, x: float, y: float, width: float, height: float) -> str:
    return f'<svg x="{x}" y="{y}" width="{width}" height="{height}">{drawn}</svg>'


def _light_style() -> str:
    """The charts' rules with the page's light colours; few viewers of SVG know variables."""
    light = dict(re.findall(r"--(\w+): light-dark\((#\w+)", read_asset("page.css")))
    rules = read_asset("charts.css") + ".ground { fill: var(--ground); }\n"
    rules += ".title { font-size: 17px; font-weight: 600; }\n"
    return re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], rules)
