"""One model to one row: complete, judge, score, time. Keeps what is done as files."""

import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cache.machine.durable import write_json
from evaluation.comparison.kept import keep_json, read_kept
from evaluation.comparison.measure_agreement import measure_agreement
from evaluation.comparison.model_row import ModelRow
from evaluation.comparison.shared_settings import SharedSettings, hash_of
from evaluation.config import GenerationSettings
from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample, complete_all
from evaluation.judging.outcomes import count_failed_at_limit
from evaluation.judging.progress import StageProgress
from evaluation.judging.scoring import Scores, judge, save_verdicts, summarize
from evaluation.metrics.evaluate_metrics import compute_bleu
from evaluation.metrics.intervals import wilson_interval
from evaluation.models.latency import Latency, measure_latency
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import (
    ModelSource,
    load_model,
    model_identity,
    num_parameters,
    safetensors_bytes,
)
from evaluation.sandbox.checks import Verdict


def measure_model(source: ModelSource, shared: SharedSettings, progress: StageProgress) -> ModelRow:
    """The row of a model; taken from `out/rows` where it was measured under the same conditions.

    Raises: EvaluationError when the model cannot be loaded or measured.
    """
    identity = model_identity(source)
    path = shared.config.out / "rows" / f"{shared.row_key(identity)}.json"
    if path.is_file():
        kept = read_kept(path, ModelRow.from_json)
        # The same weights may have been moved, or play another part now.
        here = {"label": source.label, "source": source.source, "is_teacher": source.is_teacher}
        return ModelRow.from_json({**kept.to_json(), **here})
    row = _measure(source, identity, shared, progress)
    write_json(path, row.to_json(), EvaluationError)
    return row


def _measure(
    source: ModelSource, identity: str, shared: SharedSettings, progress: StageProgress
) -> ModelRow:
    """The row of a model that is loaded only where latency or a completion is still missing."""
    config = shared.config
    model = ModelOnDemand(lambda: _load(source, shared, progress), shared.device)
    run = _Run(source, identity, shared, model, progress)
    try:
        # First of all, so that too few positions are reported before hours of generation.
        cost = run.cost()
        agreement, no_agreement = measure_agreement(source, model, shared, run.stem, progress)
        greedy = run.judge(config.greedy, "greedy", (1,))
        sampled = run.judge(config.sampled, "sampled", config.ks) if config.samples else None
        cost["peak_memory_bytes"] = run.keep_peak_memory(cost)
    finally:
        model.close()
    judged = {"greedy": greedy} | ({"sampled": sampled} if sampled else {})
    num_passed = sum(verdict.passed for verdict in greedy.verdicts)
    return ModelRow(
        label=source.label,
        is_teacher=source.is_teacher,
        source=source.source,
        identity=identity,
        **{**cost, "latency": Latency.from_json(cost["latency"])},
        greedy_pass_at_1=greedy.scores.pass_at[1],
        greedy_interval=wilson_interval(num_passed, len(greedy.verdicts)),
        pass_at=_by_name(sampled.scores.pass_at) if sampled else {},
        pass_at_intervals=_by_name(sampled.scores.intervals) if sampled else {},
        **_similarity(greedy.samples, shared),
        agreement=agreement,
        no_agreement=no_agreement,
        greedy_outcomes=greedy.scores.outcomes,
        sampled_outcomes=sampled.scores.outcomes if sampled else {},
        finishes=dict(
            Counter(
                sample.finish for one in judged.values() for sample in one.samples
            ).most_common()
        ),
        greedy_passed={task: passed > 0 for task, (passed, _) in greedy.by_task().items()},
        sampled_passed=sampled.by_task() if sampled else {},
        failed_at_token_limit={
            kind: count_failed_at_limit(one.samples, one.verdicts) for kind, one in judged.items()
        },
        sample_files={kind: one.file for kind, one in judged.items()},
    )


def _load(source: ModelSource, shared: SharedSettings, progress: StageProgress) -> tuple[Any, Any]:
    progress("load", 0, 1)
    loaded = load_model(source, shared.dtype, shared.device)
    progress("load", 1, 1)
    return loaded


def _similarity(samples: list[Sample], shared: SharedSettings) -> dict[str, Any]:
    """BLEU of completions as they are judged, and as they were generated."""
    references = [problem.canonical_solution for problem in shared.problems]
    cut = [sample.completion for sample in samples]
    raw = [sample.raw for sample in samples if sample.raw is not None]
    scores: dict[str, Any] = {}
    for suffix, texts in (("", cut), ("_raw", raw)):
        kept = len(texts) == len(references)
        scores[f"bleu{suffix}"] = compute_bleu(texts, references)["bleu"] if kept else None
    return scores


def _by_name(scores: dict[int, Any]) -> dict[str, Any]:
    return {str(k): value for k, value in scores.items()}


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Samples of a model under one setting, with what came of them."""

    samples: list[Sample]
    verdicts: list[Verdict]
    scores: Scores
    file: str
    """Where both are kept, relative to `out`."""

    def by_task(self) -> dict[str, tuple[int, int]]:
        """Passes and samples by task id."""
        counts: dict[str, tuple[int, int]] = {}
        for sample, verdict in zip(self.samples, self.verdicts, strict=True):
            passed, total = counts.get(sample.task_id, (0, 0))
            counts[sample.task_id] = (passed + verdict.passed, total + 1)
        return counts


class _Run:
    """What is measured of one model, each part kept as a file of its own."""

    def __init__(
        self,
        source: ModelSource,
        identity: str,
        shared: SharedSettings,
        model: ModelOnDemand,
        progress: StageProgress,
    ):
        self.source, self.shared, self.model = source, shared, model
        self.progress = progress
        # The dtype moves near-ties; the device only in the last bits, so files can travel.
        self.identity = f"{identity}|{shared.dtype_name}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.label)
        self.stem = f"{name}-{hash_of(self.identity)[:8]}"
        self.cost_path = shared.config.out / "costs" / f"{shared.cost_key(identity)}.json"

    def cost(self) -> dict[str, Any]:
        """Parameters, bytes and latency, as in JSON."""
        return keep_json(self.cost_path, self._measure_cost)

    def _measure_cost(self) -> dict[str, Any]:
        model, tokenizer = self.model()
        config = self.shared.config
        latency = measure_latency(
            model,
            tokenizer,
            self.shared.timed_prompts(tokenizer),
            config.latency,
            lambda: self.progress("latency", 1, config.latency.generations),
        )
        size_bytes, size_source = safetensors_bytes(self.source, model)
        return {
            "parameters": num_parameters(model),
            "size_bytes": size_bytes,
            "size_source": size_source,
            "latency": asdict(latency),
            "peak_memory_bytes": None,
        }

    def keep_peak_memory(self, cost: dict[str, Any]) -> int | None:
        """Peak memory of all of the model's turns so far, kept with its cost."""
        peaks = [cost["peak_memory_bytes"], self.model.peak_memory_bytes]
        peak = max((peak for peak in peaks if peak is not None), default=None)
        if peak != cost["peak_memory_bytes"]:
            content = {**cost, "peak_memory_bytes": peak}
            write_json(self.cost_path, content, EvaluationError)
        return peak

    def judge(self, settings: GenerationSettings, kind: str, ks: tuple[int, ...]) -> _Judged:
        """Samples under the settings and their verdicts, both kept in `out/samples`."""
        shared, config = self.shared, self.shared.config
        total = len(shared.problems) * settings.samples
        path = self.samples_path(settings, kind)
        samples = complete_all(
            self.model,
            shared.problems,
            settings,
            identity=self.identity,
            batch_size=config.batch_size,
            path=path,
            on_done=lambda count: self.progress(f"{kind}: generate", count, total),
        )
        verdicts = judge(
            samples,
            shared.problems,
            config.limits,
            config.workers,
            lambda: self.progress(f"{kind}: run", 1, total),
        )
        results = path.with_suffix(".results.jsonl")
        save_verdicts(results, samples, verdicts)
        return _Judged(
            samples=samples,
            verdicts=verdicts,
            scores=summarize(samples, verdicts, ks),
            file=results.relative_to(config.out).as_posix(),
        )

    def samples_path(self, settings: GenerationSettings, kind: str) -> Path:
        """One file for each model, benchmark and setting; more samples go to the same file."""
        one = replace(settings, samples=1)  # more samples are appended to those already drawn
        suffix = hash_of(f"{self.shared.benchmark.name}|{one.signature}")[:8]
        return self.shared.config.out / "samples" / f"{self.stem}-{kind}-{suffix}.jsonl"
