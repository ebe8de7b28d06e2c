"""Agreement with the teacher on text no student has seen: what carries the signal while small
students solve next to nothing.

Every row is one next-token prediction: KL(teacher ‖ student) and total variation at T = 1,
cross-entropy of both on the token that follows, and whether their most likely tokens are the same.
Rows are summed in float64; scores are ratios of sums over documents, and intervals resample
documents.

N rows, D documents, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from evaluation.metrics.intervals import Interval, bootstrap_over_problems

SCOPES = ("whole", "completion")
DRAFTED = (3, 5, 8)
"""γ: tokens that a draft writes before the teacher looks at them."""


class TeacherRows(NamedTuple):
    """What a teacher predicts in N rows."""

    probs: torch.Tensor
    """(N, V) fp32, at T = 1."""
    top_ids: torch.Tensor
    """(N,) int64: its most likely token."""
    gold_logprobs: torch.Tensor
    """(N,) nats, of the token that follows."""


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums over some rows of one document."""

    num_rows: int
    num_bytes: int
    """UTF-8 bytes of the text that the predicted tokens stand for; end-of-text has none."""
    kl: float
    """KL(teacher ‖ model) in nats."""
    cross_entropy: float
    """-log q of the tokens that follow, in nats."""
    teacher_cross_entropy: float
    top1: float
    """Rows where both have the same most likely token."""
    top5: float
    """Rows where the teacher's most likely token is among the model's five."""
    total_variation: float
    """½ Σ |p - q|."""


@dataclass(frozen=True, kw_only=True)
class DocumentSums:
    """Sums over the rows of one document."""

    task_id: int
    whole: RowSums
    """Every token but the first."""
    completion: RowSums
    """The tokens after the prompt."""


@dataclass(frozen=True, kw_only=True)
class DraftScores:
    """What a model would be worth as a draft for the teacher (speculative decoding at T = 1).

    Source: Leviathan et al. 2023, corollary 3.6 (acceptance is 1 - TV) and equation 1.
    """

    acceptance: float
    """Chance that the teacher takes a drafted token, the mean over rows: 1 - TV."""
    acceptance_interval: Interval | None
    """95 % bootstrap interval over documents."""
    tokens_per_pass: dict[str, float]
    """Tokens that one pass of the teacher gives, by γ, the tokens drafted before it:
    (1 - a^(γ + 1)) / (1 - a), as if every token had the mean acceptance a."""
    tokens_per_pass_intervals: dict[str, Interval | None]
    """95 %, from those of the acceptance."""

    @staticmethod
    def of(total_variation: float, interval: Interval | None) -> "DraftScores":
        """From the mean total variation and its interval."""
        acceptance = 1 - total_variation
        ends = None if interval is None else (1 - interval[1], 1 - interval[0])
        return DraftScores(
            acceptance=acceptance,
            acceptance_interval=ends,
            tokens_per_pass={str(g): tokens_per_pass(acceptance, g) for g in DRAFTED},
            tokens_per_pass_intervals={
                str(g): None
                if ends is None
                else (tokens_per_pass(ends[0], g), tokens_per_pass(ends[1], g))
                for g in DRAFTED
            },
        )

    @staticmethod
    def from_json(content: dict[str, Any]) -> "DraftScores":
        """The scores that `dataclasses.asdict` made this of."""
        intervals = content["tokens_per_pass_intervals"]
        return DraftScores(
            acceptance=content["acceptance"],
            acceptance_interval=_interval(content["acceptance_interval"]),
            tokens_per_pass=content["tokens_per_pass"],
            tokens_per_pass_intervals={name: _interval(ends) for name, ends in intervals.items()},
        )


def tokens_per_pass(acceptance: float, drafted: int) -> float:
    """Expected tokens a pass: Σ a^i for i from 0 to γ."""
    return sum(acceptance**i for i in range(drafted + 1))


@dataclass(frozen=True, kw_only=True)
class AgreementScores:
    """Agreement over the rows of all documents."""

    num_rows: int
    num_bytes: int
    kl: float
    """Nats a token."""
    kl_interval: Interval | None
    """95 % bootstrap interval over documents."""
    top1: float
    """Share of rows where both have the same most likely token."""
    top1_interval: Interval | None
    """95 % bootstrap interval over documents."""
    top5: float
    """Share of rows where the teacher's most likely token is among the model's five."""
    draft: DraftScores
    """What it would be worth as a draft for the teacher."""
    cross_entropy: float
    """Nats a token."""
    teacher_cross_entropy: float
    perplexity: float
    """exp(cross_entropy)."""
    teacher_perplexity: float
    bits_per_byte: float | None
    """Cross-entropy in bits over the bytes of text; None where there is no text."""
    teacher_bits_per_byte: float | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike a model and the teacher predict held-out documents."""

    reference: str
    """`cache`: its stored targets; `live`: the teacher's own logits."""
    num_documents: int
    num_cut: int
    """Longer than the model's positions: only their first rows are counted."""
    whole: AgreementScores
    """Every token but each document's first."""
    completion: AgreementScores | None
    """The tokens after the prompt; None where every document is cut within it."""

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Agreement":
        """The agreement that `dataclasses.asdict` made this of, lists for tuples."""
        scopes = {scope: _scores_from_json(content[scope]) for scope in SCOPES}
        return Agreement(**{**content, **scopes})


def _scores_from_json(content: dict[str, Any] | None) -> AgreementScores | None:
    if content is None:
        return None
    intervals = {name: _interval(content[name]) for name in ("kl_interval", "top1_interval")}
    draft = DraftScores.from_json(content["draft"])
    return AgreementScores(**{**content, **intervals, "draft": draft})


def _interval(ends: list[float] | None) -> Interval | None:
    return (ends[0], ends[1]) if ends else None


def row_values(logits: torch.Tensor, gold_ids: torch.Tensor, teacher: TeacherRows) -> torch.Tensor:
    """(N, 6) fp32: the measures of `RowSums` from `kl` on, of each row.

    Args:
        logits: (N, V) of the model, any float dtype; arithmetic is fp32.
        gold_ids: (N,) int64, the tokens that follow.
        teacher: the same rows.
    """
    log_q = logits.float().log_softmax(-1)
    p = teacher.probs
    # Terms of one token are subtracted before the sum, or close distributions lose their digits.
    kl = torch.where(p > 0, p * (p.log() - log_q), 0.0).sum(-1)
    likely = log_q.topk(min(5, log_q.shape[-1]), dim=-1).indices == teacher.top_ids.unsqueeze(-1)
    return torch.stack(
        [
            kl,
            -log_q.gather(-1, gold_ids.unsqueeze(-1)).squeeze(-1),
            -teacher.gold_logprobs.float(),
            likely[:, 0].float(),
            likely.any(-1).float(),
            (p - log_q.exp()).abs().sum(-1) / 2,
        ],
        dim=-1,
    )


def sum_document(
    task_id: int, values: np.ndarray, prompt_length: int, num_bytes: tuple[int, int]
) -> DocumentSums:
    """Sums of one document.

    Args:
        values: (rows, 6) of `row_values`; row t predicts token t + 1.
        prompt_length: tokens of the prompt, at least 1.
        num_bytes: of the text of all tokens but the first, and of the completion.
    """
    scopes = {}
    first_rows = (0, prompt_length - 1)
    for scope, first, size in zip(SCOPES, first_rows, num_bytes, strict=True):
        sums = values[first:].astype(np.float64).sum(0).tolist()
        kl, ce, teacher_ce, top1, top5, total_variation = sums
        scopes[scope] = RowSums(
            num_rows=max(0, len(values) - first),
            num_bytes=size,
            kl=kl,
            cross_entropy=ce,
            teacher_cross_entropy=teacher_ce,
            top1=top1,
            top5=top5,
            total_variation=total_variation,
        )
    return DocumentSums(task_id=task_id, **scopes)


def summarize(documents: Sequence[DocumentSums], *, reference: str, num_cut: int) -> Agreement:
    """Scores over all documents, each weighing as much as it has rows."""
    whole = _summarize([document.whole for document in documents])
    assert whole is not None, "documents have at least two tokens"
    return Agreement(
        reference=reference,
        num_documents=len(documents),
        num_cut=num_cut,
        whole=whole,
        completion=_summarize([document.completion for document in documents]),
    )


def _summarize(documents: Sequence[RowSums]) -> AgreementScores | None:
    table = {
        name: np.array([asdict(document)[name] for document in documents], dtype=np.float64)
        for name in asdict(documents[0])
    }
    rows, num_bytes = table["num_rows"], float(table["num_bytes"].sum())
    if not rows.any():
        return None
    means = {
        name: float(table[name].sum() / rows.sum())
        for name in ("kl", "cross_entropy", "teacher_cross_entropy", "top1", "top5")
    }

    def interval(name: str) -> Interval | None:
        def ratio(drawn: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore"):  # 0 / 0 where no drawn document has a row
                return table[name][drawn].sum(-1) / rows[drawn].sum(-1)

        return bootstrap_over_problems(ratio, len(documents))

    def bits_per_byte(name: str) -> float | None:
        return float(table[name].sum()) / math.log(2) / num_bytes if num_bytes else None

    return AgreementScores(
        num_rows=int(rows.sum()),
        num_bytes=int(num_bytes),
        kl_interval=interval("kl"),
        top1_interval=interval("top1"),
        draft=DraftScores.of(
            float(table["total_variation"].sum() / rows.sum()), interval("total_variation")
        ),
        perplexity=math.exp(means["cross_entropy"]),
        teacher_perplexity=math.exp(means["teacher_cross_entropy"]),
        bits_per_byte=bits_per_byte("cross_entropy"),
        teacher_bits_per_byte=bits_per_byte("teacher_cross_entropy"),
        **means,
    )
