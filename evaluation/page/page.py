"""The comparison as one page that needs no network: `report.html`.

Everything a model or a data set wrote is escaped, or travels as JSON that scripts put on the page
as text. The page's policy lets no other script run and nothing be fetched.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cache.machine.durable import write_text
from cache.machine.html_page import html_page
from evaluation.errors import EvaluationError
from evaluation.judging.self_check import SelfCheck
from evaluation.page.assets import read_asset
from evaluation.page.browser import browser_section
from evaluation.page.figures import (
    agreement_bars,
    deciding_chart,
    loss_curves,
    outcome_bars,
    quality_charts,
)
from evaluation.page.tables import section_tables, table
from evaluation.problems.benchmarks import BenchmarkProblem, load_benchmark

REPORT_FILE = "report.html"
# What a reader must not miss among the notes.
ALARM_WORDS = ("implausible",)


def write_html(content: Mapping[str, Any], problems: Sequence[BenchmarkProblem], out: Path) -> Path:
    """Write report.html into the folder of the results; its path.

    Args:
        content: of results.json.
        problems: those that were scored.
        out: has the sample files that the rows name.
    """
    path = out / REPORT_FILE
    write_text(path, to_html(content, problems, out), EvaluationError)
    return path


def rewrite_html(folder: Path) -> Path:
    """Write report.html again from the results in a folder, without any model; its path.

    Raises: EvaluationError when there are no results, or their problems are gone.
    """
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error}. Name a folder that evaluate has written its "
            "results to"
        ) from error
    config = content["config"]
    benchmark = load_benchmark(
        config["benchmark"],
        dataset=config["dataset"],
        template=config["template"],
        strip_prompt=config["strip_prompt"],
    )
    return write_html(content, benchmark.problems[: config["limit"]], folder)


def to_html(content: Mapping[str, Any], problems: Sequence[BenchmarkProblem], out: Path) -> str:
    """The whole page. Sections of what was not measured are left out."""
    rows = content["rows"]
    sections = {
        "Choosing": section_tables(rows, "Choosing") + deciding_chart(rows) + _notes(content),
        "Summary": section_tables(rows, "Summary"),
        "Quality against cost": quality_charts(rows),
        "Agreement": agreement_bars(rows) + section_tables(rows, "Agreement"),
        "Drafts": section_tables(rows, "Drafts"),
        "Latency": section_tables(rows, "Latency"),
        "Outcomes": outcome_bars(rows) + section_tables(rows, "Outcomes"),
        "Contamination": _contamination(content),
        "Loss curves": loss_curves(rows),
        "Problems": browser_section(content, problems, out),
        "Settings": _settings(content),
    }
    kept = {title: body for title, body in sections.items() if body}
    body = _top(content) + _navigation(kept) + _notices(content)
    body += "".join(
        f'<section aria-labelledby="{_anchor(title)}"><h2 id="{_anchor(title)}">{title}</h2>'
        f"{part}</section>"
        for title, part in kept.items()
    )
    style = read_asset("page.css") + read_asset("charts.css")
    return html_page(_title(content), body, style=style, script=read_asset("page.js"))


def _title(content: Mapping[str, Any]) -> str:
    name = Path(content["config"]["benchmark"]).name
    name = {"humaneval": "HumanEval", "mbpp": "MBPP"}.get(name, name)
    students = sum(not row["is_teacher"] for row in content["rows"])
    whose = "its" if students == 1 else "their"
    against = "" if students == len(content["rows"]) else f" against {whose} teacher"
    scored, total = content["num_problems"], content.get("total_problems")
    part = "" if total in (None, scored) else f", {scored} of {total} problems"
    return f"{name}{part}: {students} student{'s' * (students != 1)}{against}"


def _top(content: Mapping[str, Any]) -> str:
    date = content["date"].replace("T", " ").replace("+00:00", " UTC")
    facts = (
        f"{content['num_problems']} problems, {len(content['rows'])} models, "
        f"{content['device']}, {content['dtype']}, {date}"
    )
    return (
        f'<header class="top"><div><h1>{escape(_title(content))}</h1><p>{escape(facts)}</p></div>'
        '<button id="theme" class="js-only" type="button" title="Light or dark">'
        "◐<span hidden> Light or dark</span></button></header>"
        '<p id="script-error" class="notice alarm" role="alert" hidden></p>'
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _navigation(titles: Mapping[str, str]) -> str:
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in titles)
    return f'<nav aria-label="Sections">{links}</nav>'


def _notices(content: Mapping[str, Any]) -> str:
    """What must be known before any number is read."""
    parts = []
    if not content["complete"]:
        parts.append(_notice("warn", "<p><b>Not complete:</b> models are still to come.</p>"))
    alarms, _ = split_alarms(content["notes"])
    if alarms:
        parts.append(_notice("alarm", f"<p><b>Plausibility alarm</b></p>{_list(alarms)}"))
    parts.append(_self_check(content))
    return "".join(parts)


def _notes(content: Mapping[str, Any]) -> str:
    _, notes = split_alarms(content["notes"])
    return _notice("", f"<p><b>Notes</b></p>{_list(notes)}") if notes else ""


def split_alarms(notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The notes that put a score in doubt, and the others."""
    alarms = [note for note in notes if any(word in note for word in ALARM_WORDS)]
    return alarms, [note for note in notes if note not in alarms]


def _self_check(content: Mapping[str, Any]) -> str:
    if not content.get("self_check"):
        return _notice("warn", "<p><b>No self-check:</b> the harness did not prove itself.</p>")
    sentence = SelfCheck(**content["self_check"]).sentence
    return _notice("fine", f"<p><b>Self-check passed:</b> {escape(sentence)}</p>")


def _notice(kind: str, body: str) -> str:
    return f'<div class="notice {kind}">{body}</div>'


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _contamination(content: Mapping[str, Any]) -> str:
    """What the benchmark shares with the training documents; empty where unchecked."""
    found = content.get("contamination")
    if not found:
        return ""
    shares, total = found["contaminated"], content["num_problems"]
    text = (
        f"<p>{len(shares)} of {total} problems ({100 * len(shares) / total:.1f} %) share "
        f"{found['n']} words in a row, in prompt or canonical solution, with one of the "
        f"{found['num_documents']:,} training documents of <code>{escape(found['cache'])}</code>."
        "</p>"
    )
    if not shares:
        return text
    lines = [
        f'<tr><th scope="row">{escape(task)}</th><td>{100 * share:.1f} %</td>'
        f'<td class="words"><code>{escape(found["examples"].get(task, ""))}</code></td></tr>'
        for task, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    heads = '<th>problem</th><th>n-grams shared</th><th class="words">one of them</th>'
    listing = table("Contaminated problems, most first", heads, lines)
    return (
        f"{text}{section_tables(content['rows'], 'Contamination')}"
        f"<details><summary>The {len(shares)} problems</summary>{listing}</details>"
    )


def _settings(content: Mapping[str, Any]) -> str:
    """All that is needed to know what the numbers mean, and to measure them again."""
    signatures = {**content["signatures"], "problems": content["benchmark_source"]}
    models = {
        f"{index + 1}": f"{row['source']} ({row['identity']}; {row['size_source']})"
        for index, row in enumerate(content["rows"])
    }
    config = {name: _words(value) for name, value in content["config"].items()}
    return (
        f"<h3>What the scores mean</h3>{_pairs(signatures)}<h3>Models</h3>{_pairs(models)}"
        f"<h3>Versions</h3>{_pairs(content['versions'])}<h3>Configuration</h3>{_pairs(config)}"
    )


def _pairs(values: Mapping[str, str]) -> str:
    items = (
        f"<dt>{escape(name)}</dt><dd><code>{escape(text)}</code></dd>"
        for name, text in values.items()
    )
    return f'<dl class="settings">{"".join(items)}</dl>'


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
