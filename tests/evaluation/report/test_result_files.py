import csv
import json
from dataclasses import asdict

from evaluation.report.result_files import write_report
from evaluation.report.tables import flat_rows
from tests.support.reports import STUDENT, TEACHER, result


def test_csv_has_a_column_for_every_measurement(tmp_path):
    found = result(TEACHER, STUDENT)
    write_report(found, tmp_path)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert float(rows[1]["speedup"]) == 8
    assert float(rows[1]["latency_p95_ms"]) == 260
    assert rows[0]["size_source"].startswith("computed")
    assert list(rows[0]) == list(flat_rows(asdict(found)["rows"])[0])


def test_json_has_everything_and_markdown_stands_beside_it(tmp_path):
    found = result(TEACHER, STUDENT)
    write_report(found, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == json.loads(json.dumps(asdict(found)))
    assert (tmp_path / "results.md").read_text().startswith("# humaneval: 164 problems\n")
