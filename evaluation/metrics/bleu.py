"""BLEU of completions against canonical solutions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU

from evaluation.errors import EvaluationError


@dataclass(frozen=True, kw_only=True)
class BleuScore:
    """One BLEU score and what it takes to compute it again."""

    score: float
    """0 to 100."""
    signature: str
    """sacrebleu's own: tokeniser, smoothing, effective order, version."""


def completion_bleu(completions: Sequence[str], references: Sequence[str]) -> BleuScore:
    """Corpus BLEU of the completions alone, each against its one canonical solution.

    The prompt is part of neither side: two texts that share a long prompt agree on it for free.

    Raises: EvaluationError when the sides differ in number or are empty.
    Source: Papineni et al. 2002; Post 2018 (sacrebleu).
    """
    if len(completions) != len(references) or not completions:
        raise EvaluationError(
            f"BLEU of {len(completions)} completions against {len(references)} references; "
            "give the same number of both, at least one"
        )
    metric = BLEU(effective_order=True)
    score = metric.corpus_score(list(completions), [list(references)]).score
    return BleuScore(score=float(score), signature=str(metric.get_signature()))
