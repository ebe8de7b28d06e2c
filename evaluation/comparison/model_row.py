"""One model's measurements, and how they compare with the teacher's."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evaluation.agreement.scores import Agreement
from evaluation.metrics.paired import Comparison, compare_verdicts
from evaluation.metrics.passk import pass_at_k
from evaluation.metrics.plausibility import implausible
from evaluation.models.draft_speed import DraftSpeed
from evaluation.models.latency import Latency
from evaluation.models.training import Training


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """Everything measured on one model under one setting."""

    label: str
    is_teacher: bool
    source: str
    identity: str
    parameters: int
    size_bytes: int
    """Of its .safetensors files, or what they would take."""
    size_source: str
    """Where the size comes from: files and their dtype, or computed."""
    greedy_pass_at_1: float
    """In [0, 1]; one greedy completion per problem."""
    greedy_interval: tuple[float, float]
    """95 % Wilson interval over problems."""
    pass_at: dict[str, float]
    """Sampled pass@k in [0, 1] by k; empty without samples."""
    pass_at_intervals: dict[str, tuple[float, float]]
    """95 % intervals over problems."""
    bleu: float
    """0 to 100, of the greedy completions alone against canonical solutions."""
    bleu_raw: float | None
    """The same before they are cut at stop sequences; None where that text was not kept."""
    latency: Latency
    greedy_outcomes: dict[str, int]
    """Greedy completions by outcome."""
    sampled_outcomes: dict[str, int]
    finishes: dict[str, int]
    """All completions by why they ended."""
    peak_memory_bytes: int | None
    """Of the CUDA device during this model's turn; None elsewhere."""
    greedy_passed: dict[str, bool] = field(default_factory=dict)
    """Verdict of every problem's greedy completion, by task id."""
    sampled_passed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Passes and samples of every problem, by task id; empty without samples."""
    failed_at_token_limit: dict[str, int] = field(default_factory=dict)
    """Failed completions that had used up their new tokens, `greedy` and `sampled`."""
    sample_files: dict[str, str] = field(default_factory=dict)
    """Completions with their verdicts, `greedy` and `sampled`: JSON lines, relative to `out`."""
    agreement: Agreement | None = None
    """With the teacher on held-out documents; None where it was not measured."""
    no_agreement: str | None = None
    """Why the model could not be compared; None where it was, or nothing was to be."""
    draft_speed: DraftSpeed | None = None
    """The teacher's generation with this one's drafts; None where it was not measured."""
    no_draft_speed: str | None = None
    """Why it cannot draft for the teacher; None where it can, or nothing was to be measured."""
    training: Training | None = None
    """What a student is and what it took; None for other models."""
    uncontaminated_problems: int | None = None
    """Problems that share nothing with the training documents; None where unchecked."""
    greedy_pass_at_1_uncontaminated: float | None = None
    """Greedy pass@1 on those alone; None where unchecked or none are left."""
    pass_at_uncontaminated: dict[str, float] = field(default_factory=dict)
    """Sampled pass@k on those alone, by k."""
    speedup: float | None = None
    """Teacher's median latency over this one's."""
    compression: float | None = None
    """Teacher's bytes over this one's."""
    parameter_ratio: float | None = None
    """Teacher's parameters over this one's."""
    comparison: Comparison | None = None
    """Problem by problem against the teacher; None for the teacher, or without one."""

    def to_json(self) -> dict[str, Any]:
        """As nested dicts, for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_json(row: dict[str, Any]) -> "ModelRow":
        """The row of a JSON file written by `to_json`."""
        comparison, agreement = row.get("comparison"), row.get("agreement")
        draft, training = row.get("draft_speed"), row.get("training")
        return ModelRow(
            **{
                **row,
                "latency": Latency.from_json(row["latency"]),
                "greedy_interval": tuple(row["greedy_interval"]),
                "pass_at_intervals": _tuples(row["pass_at_intervals"]),
                "agreement": Agreement.from_json(agreement) if agreement else None,
                "training": Training(**training) if training else None,
                "draft_speed": DraftSpeed(**draft) if draft else None,
                "sampled_passed": _tuples(row.get("sampled_passed", {})),
                "comparison": Comparison.from_json(comparison) if comparison else None,
            }
        )


def _tuples(lists: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(values) for key, values in lists.items()}


def compare_with_teacher(rows: list[ModelRow]) -> list[ModelRow]:
    """The rows with their ratios to the teacher's row; unchanged where there is no teacher."""
    teacher = next((row for row in rows if row.is_teacher), None)
    if teacher is None:
        return rows
    return [
        replace(
            row,
            speedup=teacher.latency.median_ms / row.latency.median_ms,
            compression=teacher.size_bytes / row.size_bytes,
            parameter_ratio=teacher.parameters / row.parameters,
            comparison=_compare(row, teacher),
        )
        for row in rows
    ]


def rate_uncontaminated(rows: list[ModelRow], contaminated: Collection[str]) -> list[ModelRow]:
    """The rows with their pass rates on the problems that are not among the contaminated."""
    return [_rate_uncontaminated(row, contaminated) for row in rows]


def _rate_uncontaminated(row: ModelRow, contaminated: Collection[str]) -> ModelRow:
    greedy = [passed for task, passed in row.greedy_passed.items() if task not in contaminated]
    sampled = [counts for task, counts in row.sampled_passed.items() if task not in contaminated]
    return replace(
        row,
        uncontaminated_problems=len(greedy),
        greedy_pass_at_1_uncontaminated=sum(greedy) / len(greedy) if greedy else None,
        pass_at_uncontaminated={
            k: sum(pass_at_k(n, passed, int(k)) for passed, n in sampled) / len(sampled)
            for k in row.pass_at
            if sampled
        },
    )


def _compare(row: ModelRow, teacher: ModelRow) -> Comparison | None:
    if row.is_teacher:
        return None
    return compare_verdicts(
        row.greedy_passed, teacher.greedy_passed, row.sampled_passed, teacher.sampled_passed
    )


def row_notes(row: ModelRow, num_problems: int) -> list[str]:
    """What a reader of this row should know."""
    notes = []
    sampled = row.pass_at_intervals.get("1", (0.0, 0.0))
    for kind, rate, interval in (
        ("greedy", row.greedy_pass_at_1, row.greedy_interval),
        ("sampled", row.pass_at.get("1", 0.0), sampled),
    ):
        bound = implausible(row.greedy_passed, row.parameters, interval)
        if bound is not None and not row.is_teacher and not _inherits(row, kind):
            notes.append(
                f"{row.label}: {kind} pass@1 of {rate:.1%} (95 % {interval[0]:.1%} to "
                f"{interval[1]:.1%}) from {row.parameters / 1e6:.0f} M parameters is implausible: "
                f"{bound.model} reaches {bound.pass_at_1:.1%} ({bound.source}). Look for benchmark "
                "problems in its training data before believing it."
            )
    too_long = row.greedy_outcomes.get("prompt_too_long", 0)
    if too_long:
        notes.append(
            f"{row.label}: {too_long} of {num_problems} prompts leave no room in its positions; "
            "they count as failed."
        )
    notes += _agreement_notes(row)
    if row.no_draft_speed is not None:
        notes.append(f"{row.label}: cannot draft for the teacher: {row.no_draft_speed}.")
    if row.draft_speed is not None and row.draft_speed.same < row.draft_speed.generations:
        notes.append(
            f"{row.label}: {row.draft_speed.same} of {row.draft_speed.generations} drafted "
            "generations are the teacher's own tokens to the last; the others part at a near-tie, "
            "or are wrong: look at them in higher precision."
        )
    if row.latency.distinct_prompts < row.latency.generations:
        notes.append(
            f"{row.label}: {row.latency.generations} timed generations on only "
            f"{row.latency.distinct_prompts} different prompts."
        )
    return notes


def _inherits(row: ModelRow, kind: str) -> bool:
    """Whether a student was cut from the teacher, and is no better than that."""
    if row.training is None or not row.training.from_teacher or row.comparison is None:
        return False
    compared = row.comparison
    gain = compared.greedy_difference if kind == "greedy" else compared.sampled_difference
    return gain is not None and gain <= 0


def _agreement_notes(row: ModelRow) -> list[str]:
    if row.no_agreement is not None:
        return [f"{row.label}: agreement with the teacher was not measured: {row.no_agreement}."]
    agreement = row.agreement
    if agreement is None:
        return []
    notes = []
    if agreement.num_cut:
        notes.append(
            f"{row.label}: {agreement.num_cut} of {agreement.num_documents} held-out documents "
            "are longer than its positions; agreement counts their first rows alone."
        )
    if row.is_teacher and agreement.reference == "cache":
        notes.append(
            f"{row.label}: differs from the cache's targets by {agreement.whole.kl:.4f} nats a "
            "token itself. Students' KL to the teacher is known no better than that."
        )
    return notes
