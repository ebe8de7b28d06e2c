"""The browser of problems: its controls and frame; page.js fills it from the JSON beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.page.samples import Browser, to_browser
from evaluation.problems.benchmarks import BenchmarkProblem

FILTERS = {
    "all": "all",
    "differs": "a student differs from the teacher",
    "only-teacher": "the teacher alone passes",
    "only-student": "a student passes, the teacher fails",
    "every": "all pass",
    "none": "none passes",
    "contaminated": "contaminated",
}
OF_THE_TEACHER = ("differs", "only-teacher", "only-student")


def browser_section(
    content: Mapping[str, Any], problems: Sequence[BenchmarkProblem], out: Path
) -> str:
    """Prompt, completions and verdicts side by side; empty where no sample file is left."""
    contaminated = frozenset((content.get("contamination") or {}).get("contaminated", ()))
    browser = to_browser(content["rows"], problems, out, contaminated)
    if not browser.num_completions:
        return ""
    teacher = any(row["is_teacher"] for row in content["rows"])
    filters = {
        name: text
        for name, text in FILTERS.items()
        if (teacher or name not in OF_THE_TEACHER) and (contaminated or name != "contaminated")
    }
    return (
        f'<p class="quiet">{_what_is_here(browser)} <span class="js-only">Arrow keys ← → go from '
        "problem to problem; the address of the page keeps what is shown.</span></p>"
        "<noscript><p>This section needs JavaScript; the completions are in the "
        "<code>samples</code> folder beside this file.</p></noscript>"
        f'<div id="browser" class="js-only">{_controls(filters)}{FRAME}</div>'
        f'<script type="application/json" id="samples">{browser.json}</script>'
    )


def _what_is_here(browser: Browser) -> str:
    parts = ["The greedy completion of every model"]
    left_out = browser.num_samples - browser.num_embedded
    if browser.num_embedded:
        parts.append(f"and {'the first' if left_out else 'all'} {browser.num_embedded} samples")
    text = " ".join(parts) + "."
    if left_out:
        text += f" {left_out} samples a problem are left out to keep this file small."
    if browser.num_cut:
        text += f" {browser.num_cut} texts are cut after {browser.text_limit:,} characters."
    return text


def _controls(filters: Mapping[str, str]) -> str:
    options = "".join(f'<option value="{name}">{text}</option>' for name, text in filters.items())
    return (
        '<div class="tools">'
        '<label>models<select id="model"><option value="">all</option></select></label>'
        '<label>completion<select id="show"><option value="greedy">greedy</option></select></label>'
        f'<label>problems<select id="filter">{options}</select></label>'
        '<label>outcome<select id="outcome"><option value="">any</option></select></label>'
        '<label>text<input id="q" type="search" placeholder="in prompt or completion"></label>'
        '<span id="count" class="quiet" role="status"></span></div>'
    )


FRAME = (
    '<div class="browser"><ul id="problem-list" class="problems" aria-label="Problems"></ul>'
    '<div><p id="nothing" class="quiet" hidden>No problem matches.</p><div id="problem">'
    '<div class="problem-head"><h3><span id="problem-id"></span> '
    '<span id="problem-mark" class="tag" hidden>contaminated</span></h3>'
    '<button id="previous" type="button">← previous</button>'
    '<button id="next" type="button">next →</button></div>'
    '<pre id="prompt" tabindex="0" aria-label="Prompt"></pre>'
    "<details><summary>Canonical solution and test</summary>"
    '<pre id="solution" tabindex="0" aria-label="Canonical solution"></pre>'
    '<pre id="test" tabindex="0" aria-label="Test"></pre></details>'
    '<div id="answers" class="answers"></div></div></div></div>'
)
