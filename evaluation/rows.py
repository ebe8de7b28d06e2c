"""One model's measurements, and how they compare with the teacher's."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluation.latency import Latency

# A student this small that solves this much has probably seen the answers, or the score is wrong.
SMALL_STUDENT_PARAMETERS = 300_000_000
SUSPICIOUS_PASS_AT_1 = 0.15


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
    """95 % bootstrap interval over problems."""
    pass_at: dict[str, float]
    """Sampled pass@k in [0, 1] by k; empty without samples."""
    pass_at_intervals: dict[str, tuple[float, float]]
    bleu: float
    """0 to 100, of the greedy completions alone against canonical solutions."""
    latency: Latency
    greedy_outcomes: dict[str, int]
    """Greedy completions by outcome."""
    sampled_outcomes: dict[str, int]
    finishes: dict[str, int]
    """All completions by why they ended."""
    peak_memory_bytes: int | None
    """Of the CUDA device during this model's turn; None elsewhere."""
    speedup: float | None = None
    """Teacher's mean latency over this one's."""
    compression: float | None = None
    """Teacher's bytes over this one's."""
    parameter_ratio: float | None = None
    """Teacher's parameters over this one's."""
    pass_at_1_kept_percent: float | None = None
    """This greedy pass@1 in percent of the teacher's; None where the teacher solves nothing."""

    def to_json(self) -> dict[str, Any]:
        """As nested dicts, for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_json(row: dict[str, Any]) -> "ModelRow":
        """The row of a JSON file written by `to_json`."""
        return ModelRow(
            **{
                **row,
                "latency": Latency(**row["latency"]),
                "greedy_interval": tuple(row["greedy_interval"]),
                "pass_at_intervals": {
                    k: tuple(interval) for k, interval in row["pass_at_intervals"].items()
                },
            }
        )


def compare_with_teacher(rows: list[ModelRow]) -> list[ModelRow]:
    """The rows with their ratios to the teacher's row; unchanged where there is no teacher."""
    teacher = next((row for row in rows if row.is_teacher), None)
    if teacher is None:
        return rows
    return [
        replace(
            row,
            speedup=teacher.latency.mean_ms / row.latency.mean_ms,
            compression=teacher.size_bytes / row.size_bytes,
            parameter_ratio=teacher.parameters / row.parameters,
            pass_at_1_kept_percent=(
                100 * row.greedy_pass_at_1 / teacher.greedy_pass_at_1
                if teacher.greedy_pass_at_1 > 0
                else None
            ),
        )
        for row in rows
    ]


def row_notes(row: ModelRow, num_problems: int) -> list[str]:
    """What a reader of this row should know."""
    notes = []
    best = max([row.greedy_pass_at_1, row.pass_at.get("1", 0.0)])
    if (
        not row.is_teacher
        and row.parameters < SMALL_STUDENT_PARAMETERS
        and best > SUSPICIOUS_PASS_AT_1
    ):
        notes.append(
            f"{row.label}: pass@1 of {best:.1%} from {row.parameters / 1e6:.0f} M parameters is "
            "implausible (models this small reach 2 to 8 %, from billions of tokens). Look for "
            "benchmark problems in its training data before believing it."
        )
    too_long = row.greedy_outcomes.get("prompt_too_long", 0)
    if too_long:
        notes.append(
            f"{row.label}: {too_long} of {num_problems} prompts leave no room in its positions; "
            "they count as failed."
        )
    if row.latency.distinct_prompts < row.latency.generations:
        notes.append(
            f"{row.label}: {row.latency.generations} timed generations on only "
            f"{row.latency.distinct_prompts} different prompts."
        )
    return notes
