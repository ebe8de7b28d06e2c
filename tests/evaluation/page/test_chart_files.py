"""The charts as files: what a viewer that knows nothing of the page makes of them."""

import re
from dataclasses import asdict, replace
from xml.etree import ElementTree

import pytest

from evaluation.page.chart_files import write_chart_files
from evaluation.page.figures import measured_qualities, quality_chart
from tests.support.reports import STUDENT, full_result, result

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def rows():
    return asdict(full_result())["rows"]


def test_every_cost_has_a_file_with_the_pages_own_charts(rows, tmp_path):
    paths = write_chart_files(rows, "humaneval", tmp_path)
    assert [path.name for path in paths] == [
        "quality-vs-parameters.svg", "quality-vs-latency.svg", "quality-vs-size.svg",
    ]  # fmt: skip
    for path, cost in zip(paths, ("parameters", "latency", "size"), strict=True):
        text = path.read_text()
        for quality in measured_qualities(rows):
            assert quality_chart(rows, quality, cost) in text
        drawn = ElementTree.fromstring(text)
        words = [element.text for element in drawn.iter(f"{SVG}text")]
        assert f"humaneval: quality against {cost}" in words
        assert {"1  teacher-3b (teacher)", "2  student-44m"} < set(words)
        assert {"greedy pass@1, %", "BLEU", "−KL, nats a token"} < set(words)


def test_a_file_needs_no_network_and_no_variables_of_a_style_sheet(rows, tmp_path):
    for path in write_chart_files(rows, "humaneval", tmp_path):
        text = path.read_text()
        assert not re.search(r"var\(|light-dark|url\(|@import|href|<script", text)
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "fill: #ffffff" in text  # its ground, so that it reads on a dark page, too


def test_charts_lie_side_by_side_inside_the_file(rows, tmp_path):
    for found in (rows, asdict(result(replace(STUDENT, pass_at={}, pass_at_intervals={})))["rows"]):
        path, *_ = write_chart_files(found, "humaneval", tmp_path)
        drawn = ElementTree.fromstring(path.read_text())
        boxes = [
            tuple(float(box.get(name)) for name in ("x", "y", "width", "height"))
            for box in drawn.findall(f"{SVG}svg")
        ]
        assert len(boxes) == len(measured_qualities(found)) + len(found)
        for number, (x, y, width, height) in enumerate(boxes):
            assert x + width <= float(drawn.get("width"))
            assert y + height <= float(drawn.get("height"))
            for u, v, other_width, other_height in boxes[:number]:
                apart = x >= u + other_width or y >= v + other_height or x + width <= u
                assert apart or y + height <= v


def test_a_label_stays_text(tmp_path):
    hostile = "</text><script>alert(1)</script> & \"'"
    path, *_ = write_chart_files(
        asdict(result(replace(STUDENT, label=hostile)))["rows"], "humaneval", tmp_path
    )
    drawn = ElementTree.fromstring(path.read_text())
    assert not list(drawn.iter(f"{SVG}script"))
    assert f"1  {hostile}" in [element.text for element in drawn.iter(f"{SVG}text")]
