"""The report's page in a real browser: its script, its filters, light and dark, and a phone."""

import re

import pytest

from evaluation.page.page import write_html
from tests.support.browser import attribute, browse, contrast, in_a_phone, luminance, needs_browser
from tests.support.reports import HOSTILE, PROBLEMS, Page, full_content, write_samples

pytestmark = needs_browser

# A browser shows lone surrogates, but cannot print a document that holds one.
ANSWER = HOSTILE.replace("\ud800", "")
TASKS = [problem.task_id for problem in PROBLEMS]
# Acts as a reader would, and tells what is then on the page.
PROBE = """<script>
  const text = (id) => document.getElementById(id).textContent;
  const set = (id, value) => {
    const control = document.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event(id === "q" ? "input" : "change"));
  };
  const press = (key, target = document.body) =>
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const listed = () =>
    [...document.querySelectorAll("#problem-list .id")].map((one) => one.textContent);
  const colours = () => {
    const style = getComputedStyle(document.body);
    const quiet = getComputedStyle(document.querySelector("header.top p")).color;
    return [style.backgroundColor, style.color, quiet];
  };
  const seen = { first: text("problem-id"), all: listed(), width: innerWidth };
  seen.overflow = document.documentElement.scrollWidth;
  seen.light = colours();
  document.getElementById("theme").click();
  seen.dark = colours();
  document.getElementById("browser").scrollIntoView();
  press("ArrowRight");
  seen.right = text("problem-id");
  press("ArrowLeft"); press("ArrowLeft");
  seen.leftRound = text("problem-id");
  press("ArrowRight", document.getElementById("q"));
  seen.typing = text("problem-id");
  document.querySelectorAll("#problem-list button")[1].click();
  seen.clicked = [text("problem-id"), location.hash];
  for (const name of ["differs", "only-teacher", "only-student", "every", "none", "contaminated"]) {
    set("filter", name);
    seen[name] = listed();
  }
  set("filter", "all"); set("outcome", "passed"); seen.passed = listed();
  set("outcome", ""); set("q", "STUDENT-44M GREEDY"); seen.found = listed();
  set("q", "no such text"); seen.missed = [listed(), document.getElementById("problem").hidden];
  set("q", ""); set("quality", "top1");
  seen.panels = [...document.querySelectorAll(".panel")]
    .filter((one) => one.offsetParent).map((one) => one.dataset.quality);
  set("show", "2");
  seen.second = document.querySelector("[data-model=student-44m] pre").textContent;
  seen.after = document.documentElement.scrollWidth;
  seen.hacked = document.documentElement.dataset.hacked;
  parent.postMessage(JSON.stringify(seen), "*");
</script></body>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page whose student answers the first problem with hostile text."""
    out = tmp_path_factory.mktemp("report")
    content = full_content(out)
    texts = {(task, 0): ANSWER if task == TASKS[0] else "    student-44m greedy" for task in TASKS}
    name = write_samples(out, "hostile", texts, {(TASKS[0], 0)})
    content["rows"][1]["sample_files"]["greedy"] = name
    return write_html(content, PROBLEMS, out)


@pytest.fixture(scope="module")
def seen(report, tmp_path_factory):
    """What a reader at a phone sees; the page's policy is lifted for the probe's own script."""
    return in_a_phone(report, PROBE, profile=tmp_path_factory.mktemp("profile"))


def test_an_address_opens_its_problem_model_and_sample_without_script_errors(report, tmp_path):
    address = "#problem=0&model=student-44m&theme=dark"
    document, console = browse(report, address, profile=tmp_path / "a")
    assert console == []
    assert attribute(document, "ready") == "yes" and attribute(document, "theme") == "dark"
    assert attribute(document, "hacked") is None
    assert f'<span id="problem-id">{TASKS[0]}</span>' in document
    shown = document[document.index('<div id="answers"') :]
    assert re.findall(r'data-model="([^"]+)"', shown) == ["teacher-3b", "student-44m"]
    assert ANSWER in Page(shown).text
    document, _ = browse(report, "#problem=HumanEval/2&show=2", profile=tmp_path / "b")
    assert f'<span id="problem-id">{TASKS[2]}</span>' in document
    assert "student-44m sampled 1" in document


def test_hostile_completions_stay_text_even_without_the_policy(seen):
    assert "hacked" not in seen


def test_nothing_is_wider_than_a_phone(seen):
    assert seen["width"] == 360
    assert seen["overflow"] <= 360 and seen["after"] <= 360


def test_light_and_dark_are_readable(seen):
    for theme, ground_is_light in (("light", True), ("dark", False)):
        ground, ink, quiet = seen[theme]
        assert (luminance(ground) > 0.5) == ground_is_light
        assert contrast(ground, ink) >= 4.5 and contrast(ground, quiet) >= 4.5


def test_arrow_keys_and_clicks_choose_the_problem(seen):
    assert seen["first"] == TASKS[0] and seen["all"] == TASKS
    assert seen["right"] == TASKS[1]
    assert seen["leftRound"] == seen["typing"] == TASKS[2]
    assert seen["clicked"][0] == TASKS[1] and "problem=HumanEval%2F1" in seen["clicked"][1]


def test_filters_and_search_keep_the_problems_that_match(seen):
    # The teacher solves the first two, the student the first.
    assert seen["differs"] == seen["only-teacher"] == [TASKS[1]]
    assert seen["only-student"] == []
    assert seen["every"] == [TASKS[0]] and seen["none"] == [TASKS[2]]
    assert seen["contaminated"] == [TASKS[1]]
    assert seen["passed"] == TASKS[:2]
    assert seen["found"] == TASKS[1:]
    assert seen["missed"] == [[], True]


def test_quality_and_sample_are_chosen_from_their_lists(seen):
    assert seen["panels"] == ["top1"]
    assert seen["second"] == "    student-44m sampled 1"
