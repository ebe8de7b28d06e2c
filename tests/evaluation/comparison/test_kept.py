"""Files of measurements: taken where they are whole, refused with their name where they are not."""

import json

import pytest

from evaluation.comparison.kept import keep_json, read_kept
from evaluation.comparison.model_row import ModelRow
from evaluation.errors import EvaluationError


def test_what_was_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "costs" / "a.json"
    path.parent.mkdir()
    assert keep_json(path, lambda: {"ms": 2.5}) == {"ms": 2.5}
    assert keep_json(path, lambda: pytest.fail("measured twice")) == {"ms": 2.5}


@pytest.mark.parametrize(
    "content", [b'{"ms": 2', b"\xff\xfe", b"[1]", b"null", b"{}", b'{"label": 1}']
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "row.json"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"row\.json is damaged .* Remove it; what it held"):
        read_kept(path, ModelRow.from_json)


def test_a_file_of_costs_that_is_no_object_is_damaged(tmp_path):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps([["a"]]))
    with pytest.raises(EvaluationError, match="is damaged"):
        keep_json(path, dict)
