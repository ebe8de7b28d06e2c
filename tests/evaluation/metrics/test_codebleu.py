import sys

import pytest

from evaluation.errors import EvaluationError
from evaluation.metrics import codebleu
from evaluation.metrics.codebleu import (
    PARTS,
    codebleu_signature,
    completion_codebleu,
    why_no_codebleu,
)

BODY = "    total = 0\n    for value in values:\n        total += value\n    return total\n"


@pytest.fixture(autouse=True)
def asked_anew():
    why_no_codebleu.cache_clear()
    yield
    why_no_codebleu.cache_clear()


def test_without_the_package_there_is_no_score_but_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "codebleu", None)
    assert completion_codebleu([BODY], [BODY]) is None and codebleu_signature() is None
    assert "not installed; pip install 'logitcache[codebleu]'" in why_no_codebleu()


def test_a_grammar_of_another_age_is_named(monkeypatch):
    def fail(**arguments):
        raise TypeError("an integer is required")

    monkeypatch.setitem(sys.modules, "codebleu", type("Package", (), {"calc_codebleu": fail}))
    monkeypatch.setattr(codebleu.metadata, "version", lambda name: "0.25.0")
    assert completion_codebleu([BODY], [BODY]) is None
    assert "does not work with tree-sitter-python 0.25.0 (an integer" in why_no_codebleu()


def test_the_score_is_the_mean_of_four_matches_and_no_dataflow_counts_nothing(monkeypatch):
    seen = {}

    def calculate(references, predictions, lang):
        seen.update(references=references, predictions=predictions, lang=lang)
        return {**dict(zip(PARTS, (0.5, 0.25, 0.25, 0), strict=True)), "codebleu": 0.5}

    package = type("Package", (), {"calc_codebleu": staticmethod(calculate)})
    monkeypatch.setitem(sys.modules, "codebleu", package)
    monkeypatch.setattr(codebleu.metadata, "version", lambda name: "1")
    assert completion_codebleu(["    a\n      b"], ["  c"]).score == 25
    assert seen == {"references": [["c"]], "predictions": ["a\n  b"], "lang": "python"}


def test_sides_of_different_number_are_refused():
    with pytest.raises(EvaluationError, match="CodeBLEU of 1 completions against 2 references"):
        completion_codebleu(["a"], ["a", "b"])


def test_copies_score_100_and_renamed_variables_keep_syntax_and_dataflow():
    pytest.importorskip("codebleu")
    assert completion_codebleu([BODY], [BODY]).score == pytest.approx(100)
    renamed = BODY.replace("total", "result").replace("value", "entry")
    other = completion_codebleu([renamed], [BODY])
    assert 50 < other.score < 100
    assert completion_codebleu(["pass"], [BODY]).score < 10
    assert completion_codebleu([""], [BODY]).score == pytest.approx(0, abs=1e-6)
    assert "|lang:python|weights:0.25,0.25,0.25,0.25|" in other.signature
