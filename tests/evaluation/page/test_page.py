"""The report's page as a document: what it holds, and what hostile text cannot do to it."""

import base64
import hashlib
import json
import re
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from evaluation.commands import report
from evaluation.comparison.model_row import row_notes
from evaluation.errors import EvaluationError
from evaluation.judging.self_check import SelfCheck
from evaluation.page.charts import Point, pareto_front, scatter
from evaluation.page.page import REPORT_FILE, rewrite_html, split_alarms, to_html, write_html
from evaluation.page.samples import script_json, to_browser
from tests.support.reports import (
    HOSTILE,
    PROBLEMS,
    STUDENT,
    TEACHER,
    Page,
    full_content,
    full_result,
    result,
    write_samples,
)


@given(st.text())
def test_embedded_json_comes_back_whole_and_cannot_leave_its_element(text):
    for value in (text, text + HOSTILE):
        embedded = script_json({"completion": value})
        assert not set("<>&\u2028\u2029") & set(embedded) and embedded.isascii()
        assert json.loads(embedded) == {"completion": value}


def test_hostile_texts_become_no_element_no_script_and_no_handler(tmp_path):
    content = full_content(tmp_path)
    harmless = Page(to_html(content, PROBLEMS, tmp_path))
    row = content["rows"][1]
    label = HOSTILE.replace("\ud800", "")
    row |= {"label": label, "source": label, "greedy_outcomes": {f"exception:{label}": 164}}
    content |= {"notes": [label], "device": label, "versions": {label: label}}
    content["contamination"]["examples"] = {"HumanEval/1": label}
    texts = {(problem.task_id, 0): HOSTILE for problem in PROBLEMS}
    row["sample_files"] = {"greedy": write_samples(tmp_path, "hostile", texts)}
    problems = [replace(problem, prompt=HOSTILE) for problem in PROBLEMS]
    page = Page(to_html(content, problems, tmp_path))
    kinds = ("script", "img", "h2", "article", "main", "iframe", "link")
    assert {tag: page.tags[tag] for tag in kinds} == {tag: harmless.tags[tag] for tag in kinds}
    assert page.tags["img"] == page.tags["link"] == 0
    assert not [name for name in page.attributes if name.startswith("on") or name == "src"]
    assert json.loads(page.scripts[0])["problems"][0]["prompt"] == HOSTILE
    assert "<!-- <script>" in page.text


def test_the_page_fetches_nothing_and_lets_only_its_own_script_run(tmp_path):
    text = to_html(full_content(tmp_path), PROBLEMS, tmp_path)
    assert not re.search(r"https?://|url\(|@import|\bsrc=", text.split('id="samples"')[0])
    page = Page(text)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'" in text
    assert not {tag: count for tag, count in page.ids.items() if count > 1}


def test_scores_stand_with_their_intervals_and_ratios(tmp_path):
    text = Page(to_html(full_content(tmp_path), PROBLEMS, tmp_path)).text
    for part in (
        "32.0 %25.0 to 39.0", "8.0 %4.0 to 12.0", "25.0 %", "−23.8−", "44.3 M", "8.00×", "34.2×",
        "1.2501.200 to 1.300", "61.0 %60.0 to 62.0", "13039112", "< 0.0001", "wrong answer",
        "1 of 164 problems (0.6 %) share 13 words", "9,000 tokens of 90 held-out documents",
        "computed: parameters x 2 bytes", "n:1|temp:0", "org/teacher-3b@0123",
    ):  # fmt: skip
        assert part in text, part


def test_a_part_of_a_benchmark_is_titled_as_a_part(tmp_path):
    some = asdict(result(TEACHER, STUDENT, num_problems=12))
    title = "HumanEval, 12 of 164 problems: 1 student against its teacher"
    assert title in Page(to_html(some, PROBLEMS, tmp_path)).text
    assert "of 164 problems:" not in Page(to_html(asdict(result(STUDENT)), PROBLEMS, tmp_path)).text


def test_what_decides_stands_first(tmp_path):
    text = Page(to_html(asdict(full_result()), PROBLEMS, tmp_path)).text
    first = text.split("What decides")[1].split("Summary")[0]
    for part in (
        "6x512x8, random weights", "T = 2, α = 0.5", "25.0 %", "60.0 %58.0 to 61.0", "380,000",
        "1.50 h", "Up is better, left is faster",
    ):  # fmt: skip
        assert part in first, part


def test_a_model_cut_at_its_positions_is_not_ranked_beside_the_others(tmp_path):
    content = asdict(full_result())
    content["rows"][1]["agreement"]["num_cut"] = 3
    text = to_html(content, PROBLEMS, tmp_path)
    table = text.split("What decides")[1].split("</table>")[0]
    student = table.split("<tr>")[-1]
    assert "1.250" not in student and "60.0 %" not in student
    assert "of fewer tokens" in text
    kl = text.split('data-quality="kl"')[1].split("</div>")[0]
    assert "1 teacher-3b" in kl and "2 student-44m" not in kl


def test_what_was_not_measured_has_no_column_and_no_section(tmp_path):
    text = Page(to_html(asdict(result(STUDENT)), PROBLEMS, tmp_path)).text
    for part in ("McNemar", "speed-up", "smaller", "peak memory", "batches", "Agreement"):
        assert part not in text, part
    for part in ("Contamination", "Loss curves", "Problems"):
        assert part not in text, part
    assert "HumanEval: 1 student" in text and "against its teacher" not in text


def test_results_in_doubt_say_so_before_any_number(tmp_path):
    good = {f"HumanEval/{i}": True for i in range(164)}
    row = replace(
        STUDENT, greedy_passed=good, greedy_pass_at_1=1.0, greedy_interval=(0.98, 1.0), pass_at={}
    )
    row = replace(row, pass_at_intervals={}, sampled_passed={})
    notes = (*row_notes(row, 164), "Something to know.")
    assert [len(part) for part in split_alarms(notes)] == [1, 1]
    content = asdict(result(row, complete=False, notes=notes))
    text = Page(to_html(content, PROBLEMS, tmp_path)).text
    for part in ("Not complete", "Plausibility alarm", "is implausible", "No self-check"):
        assert part in text.split("Summary")[1], part
    checked = SelfCheck(canonical=164, trivial={"pass": 0}, num_problems=164, remarks=())
    content["self_check"] = asdict(checked)
    text = Page(to_html(content, PROBLEMS, tmp_path)).text
    assert "164 of 164 canonical solutions pass, and no problem is passed by a" in text


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_no_other_model_beats_in_both(pairs):
    points = [
        Point(index=i, label="m", x=float(x), y=float(y), text="m")
        for i, (x, y) in enumerate(pairs)
    ]
    beaten = {
        (x, y)
        for x, y in pairs
        for u, v in pairs
        if u <= x and v >= y and (u, v) != (x, y)
    }  # fmt: skip
    assert [(p.x, p.y) for p in pareto_front(points)] == sorted(set(pairs) - beaten)


def test_better_stands_higher_and_cheaper_to_the_left():
    points = [
        Point(index=0, label="a", x=1e6, y=0.1, text="a"),
        Point(index=5, label="b", x=1e8, y=0.4, low=0.3, high=0.5, text="b"),
    ]
    drawn = scatter(points, "parameters", "pass@1", percent=True)
    (ax, ay), (bx, by) = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert float(ax) < float(bx) and float(ay) > float(by)
    low, high = map(float, re.search(r"whisker\" d=\"M[\d.]+ ([\d.]+)V([\d.]+)", drawn).groups())
    assert low > float(by) > high
    assert (low - float(by)) == pytest.approx(float(by) - high, abs=0.2)


def test_loss_curves_come_from_the_run_folders_that_have_metrics(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": step, "train_loss": 10.0 / step} for step in range(1, 500)]
    lines += [{"step": 499, "val_loss": 0.5, "val_ce_loss": None}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 500, "tr'
    (run / "metrics.jsonl").write_text(text)
    page = to_html(asdict(result(TEACHER, replace(STUDENT, source=str(run)))), PROBLEMS, tmp_path)
    assert page.count('class="line') == 2
    assert "validation ends at 0.50" in page and "train ends at 0.02" in page
    assert len(re.search(r'faint"><title>train</title><polyline points="([^"]+)', page)[1]) < 4000


def test_runs_are_compared_by_what_is_the_same_for_all(tmp_path):
    rows = []
    for name, kl in (("one", 2.25), ("two", 1.75)):
        line = {"step": 9, "val_kl": kl, "val_loss": 9.0, "val_ce_loss": 8.0}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        rows.append(replace(STUDENT, label=name, source=str(tmp_path / name)))
    page = to_html(asdict(result(TEACHER, *rows)), PROBLEMS, tmp_path)
    assert "KL from the teacher at T = 1 by step. one ends at 2.25; two ends at 1.75" in page


@pytest.mark.parametrize(
    ("most", "kept"), [(10**7, 20), (40_000, 10), (25_000, 5), (7_000, 0), (1, 0)]
)
def test_the_page_stays_small_and_says_what_it_leaves_out(tmp_path, most, kept):
    texts = {(p.task_id, i): f"{i:3}" + "x" * 900 for p in PROBLEMS for i in range(20)}
    files = {
        "greedy": write_samples(tmp_path, "greedy", {key: texts[key] for key in list(texts)[::20]}),
        "sampled": write_samples(tmp_path, "sampled", {k: f"{v}{k[0]}" for k, v in texts.items()}),
    }
    row = asdict(replace(STUDENT, sample_files=files))
    browser = to_browser([row], PROBLEMS, tmp_path, max_bytes=most)
    assert (browser.num_samples, browser.num_embedded) == (20, kept)
    assert len(browser.json) <= max(most, 5_000)
    content = json.loads(browser.json)
    assert all(len(cells) == 1 for cells in content["greedy"][0])
    assert all(len(cells) == kept for cells in content["sampled"][0])
    assert content["passes"][0] == [[0, 20]] * 3
    assert (browser.num_cut > 0) == (most == 1)


def test_the_page_is_written_again_from_the_files_alone(tmp_path):
    config = {
        "benchmark": "humaneval", "dataset": None, "template": "instruction",
        "strip_prompt": True, "limit": 3, "self_check": True,
    }  # fmt: skip
    content = full_content(tmp_path, config=config)
    (tmp_path / "results.json").write_text(json.dumps(content))
    first = write_html(content, PROBLEMS, tmp_path).read_text()
    (tmp_path / REPORT_FILE).unlink()
    said = CliRunner().invoke(report, [str(tmp_path)]).output
    assert said == f"Report: {tmp_path / REPORT_FILE}\n"
    assert (tmp_path / REPORT_FILE).read_text() == first


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="results.json cannot be read: .*Name a folder that"):
        rewrite_html(tmp_path)
