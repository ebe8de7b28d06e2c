"""The scores as `evaluate` metrics; they carry their code and need no hub."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from evaluation.metrics.bleu import completion_bleu
from evaluation.metrics.intervals import mean_interval
from evaluation.metrics.passk import pass_at_k_per_problem

CHEN = """@article{chen2021evaluating,
  title={Evaluating Large Language Models Trained on Code},
  author={Mark Chen and others}, journal={arXiv:2107.03374}, year={2021}}"""
POST = """@inproceedings{post2018call,
  title={A Call for Clarity in Reporting {BLEU} Scores},
  author={Matt Post}, booktitle={WMT}, year={2018}}"""


class PassAtK(evaluate.Metric):
    """pass@k over problems; predictions are the verdicts of a problem's samples."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Unbiased pass@k from the verdicts of n samples per problem.",
            citation=CHEN,
            inputs_description="predictions: verdicts of each problem; references: task ids.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("bool")),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[Sequence[bool]], references: Sequence[str], ks: Sequence[int]
    ) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for k in ks:
            per_problem = pass_at_k_per_problem(predictions, k)
            scores[f"pass@{k}"] = float(per_problem.mean())
            scores[f"pass@{k}_interval"] = mean_interval(per_problem)
        return scores


class CompletionBleu(evaluate.Metric):
    """BLEU of completions, without their prompts, against canonical solutions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU (sacrebleu, effective order) of completions alone.",
            citation=POST,
            inputs_description="predictions: completions; references: canonical solutions.",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                }
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        result = completion_bleu(predictions, references)
        return {"bleu": result.score, "signature": result.signature}


def compute_pass_at_k(verdicts: dict[str, list[bool]], ks: Sequence[int]) -> dict[str, Any]:
    """Scores `pass@k` in [0, 1] and `pass@k_interval` for every k; verdicts by task id."""
    return PassAtK(keep_in_memory=True).compute(
        predictions=list(verdicts.values()), references=list(verdicts), ks=tuple(ks)
    )


def compute_bleu(completions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Scores `bleu` (0 to 100) and its `signature`."""
    return CompletionBleu(keep_in_memory=True).compute(
        predictions=list(completions), references=list(references)
    )
