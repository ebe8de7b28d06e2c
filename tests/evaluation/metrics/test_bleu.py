import math

import pytest

from evaluation.errors import EvaluationError
from evaluation.metrics.bleu import completion_bleu
from evaluation.metrics.evaluate_metrics import compute_bleu


def test_equal_texts_score_100():
    text = "    return sum(x * x for x in values)\n"
    assert completion_bleu([text], [text]).score == pytest.approx(100)


def test_score_equals_the_formula_on_a_small_example():
    # Precisions of the n-grams of "a b c d e" in "a b c d f": 4/5, 3/4, 2/3, 1/2; equal lengths.
    expected = 100 * math.exp(sum(map(math.log, (4 / 5, 3 / 4, 2 / 3, 1 / 2))) / 4)
    assert completion_bleu(["a b c d e"], ["a b c d f"]).score == pytest.approx(expected)


def test_a_shared_prompt_would_inflate_the_score():
    prompt = "def f(values):\n    '''Return the sum of the squares of all the values.'''\n"
    alone = completion_bleu(["    pass"], ["    return sum(v * v for v in values)"]).score
    with_prompt = completion_bleu(
        [f"{prompt}    pass"], [f"{prompt}    return sum(v * v for v in values)"]
    ).score
    assert alone < 5 < 30 < with_prompt


def test_empty_completion_scores_zero():
    assert completion_bleu([""], ["return 1"]).score == 0


def test_signature_names_tokeniser_and_effective_order():
    signature = compute_bleu(["a"], ["a"])["signature"]
    assert "tok:13a" in signature and "eff:yes" in signature and "version:" in signature


def test_unequal_sides_are_refused():
    with pytest.raises(EvaluationError, match="BLEU of 1 completions against 2 references"):
        completion_bleu(["a"], ["a", "b"])


def test_metric_and_function_agree():
    completions, references = ["return 1 + 2", "x = 3"], ["return 1 + 3", "y = 3"]
    expected = completion_bleu(completions, references).score
    assert compute_bleu(completions, references)["bleu"] == pytest.approx(expected)
