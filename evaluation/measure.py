"""One model to one row: complete, judge, score, time. Keeps what is done as files."""

import gc
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evaluation.completions import Sample, complete_all
from evaluation.config import BenchmarkConfig, GenerationSettings
from evaluation.files import write_text
from evaluation.latency import measure_latency
from evaluation.metrics import compute_bleu
from evaluation.models import (
    ModelSource,
    load_model,
    model_identity,
    num_parameters,
    safetensors_bytes,
)
from evaluation.problems import Benchmark, BenchmarkProblem
from evaluation.rows import ModelRow
from evaluation.scoring import Scores, judge, save_verdicts, summarize

# Called with a stage, how much of it was done just now, and its total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same for every model of a comparison."""

    config: BenchmarkConfig
    benchmark: Benchmark
    problems: tuple[BenchmarkProblem, ...]
    """The problems scored: the benchmark's first `limit`."""
    device: torch.device
    dtype: torch.dtype
    sandbox: str
    """Layers of the sandbox on this machine."""

    @property
    def device_name(self) -> str:
        """The device with the hardware's own name where there is one."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        if self.device.type == "cpu":
            return f"cpu ({torch.get_num_threads()} threads)"
        return str(self.device)

    @property
    def dtype_name(self) -> str:
        """As in `float32`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def _prompt_kind(self) -> str:
        if self.benchmark.name == "mbpp":
            return self.config.template
        return "stripped" if self.config.strip_prompt else "as-is"

    def signature(self, settings: GenerationSettings) -> str:
        """What a score under these settings means, in one line."""
        config = self.config
        return (
            f"{self.benchmark.name}|problems:{len(self.problems)}|prompt:{self._prompt_kind}"
            f"|{settings.signature}"
            f"|timeout:{config.timeout:g}s|memory:{config.memory_mb}MiB|sandbox:{self.sandbox}"
            f"|dtype:{self.dtype_name}|device:{self.device.type}"
        )

    def row_key(self, identity: str) -> str:
        """Hash of all that a row depends on."""
        config = self.config
        parts: list[Any] = [
            identity,
            [asdict(problem) for problem in self.problems],
            self.signature(config.greedy),
            self.device_name,
            config.latency.signature,
            [problem.prompt for problem in self.benchmark.problems[: config.latency.num_prompts]],
        ]
        if config.samples:
            parts += [self.signature(config.sampled), config.ks]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def measure_model(source: ModelSource, conditions: Conditions, progress: Progress) -> ModelRow:
    """The row of a model; taken from `out/rows` where it was measured under the same conditions.

    Raises: EvaluationError when the model cannot be loaded or measured.
    """
    identity = model_identity(source)
    path = conditions.config.out / "rows" / f"{conditions.row_key(identity)}.json"
    if path.is_file():
        kept = ModelRow.from_json(json.loads(path.read_text(encoding="utf-8")))
        # The same weights may have been moved, or play another part now.
        here = {"label": source.label, "source": source.source, "is_teacher": source.is_teacher}
        return ModelRow.from_json({**kept.to_json(), **here})
    row = _measure(source, identity, conditions, progress)
    write_text(path, json.dumps(row.to_json(), indent=2) + "\n")
    return row


def _measure(
    source: ModelSource, identity: str, conditions: Conditions, progress: Progress
) -> ModelRow:
    config, device = conditions.config, conditions.device
    progress("load", 0, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model, tokenizer = load_model(source, conditions.dtype, device)
    progress("load", 1, 1)
    # First of all, so that too few positions are reported before hours of generation.
    latency = measure_latency(
        model,
        tokenizer,
        [problem.prompt for problem in conditions.benchmark.problems],
        config.latency,
        lambda: progress("latency", 1, config.latency.generations),
    )
    run = _Run(source, identity, conditions, progress)
    greedy, greedy_scores = run.score(model, tokenizer, config.greedy, "greedy", (1,))
    sampled: list[Sample] = []
    sampled_scores: Scores | None = None
    if config.samples:
        sampled, sampled_scores = run.score(model, tokenizer, config.sampled, "sampled", config.ks)
    references = [problem.canonical_solution for problem in conditions.problems]
    bleu = compute_bleu([sample.completion for sample in greedy], references)
    size_bytes, size_source = safetensors_bytes(source, model)
    row = ModelRow(
        label=source.label,
        is_teacher=source.is_teacher,
        source=source.source,
        identity=identity,
        parameters=num_parameters(model),
        size_bytes=size_bytes,
        size_source=size_source,
        greedy_pass_at_1=greedy_scores.pass_at[1],
        greedy_interval=greedy_scores.intervals[1],
        pass_at=_by_name(sampled_scores.pass_at) if sampled_scores else {},
        pass_at_intervals=_by_name(sampled_scores.intervals) if sampled_scores else {},
        bleu=bleu["bleu"],
        latency=latency,
        greedy_outcomes=greedy_scores.outcomes,
        sampled_outcomes=sampled_scores.outcomes if sampled_scores else {},
        finishes=dict(Counter(s.finish for s in [*greedy, *sampled]).most_common()),
        peak_memory_bytes=(
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        ),
    )
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def _by_name(scores: dict[int, Any]) -> dict[str, Any]:
    return {str(k): value for k, value in scores.items()}


class _Run:
    """Completions and verdicts of one model."""

    def __init__(
        self, source: ModelSource, identity: str, conditions: Conditions, progress: Progress
    ):
        self.conditions = conditions
        self.progress = progress
        # The dtype moves near-ties; the device only in the last bits, so files can travel.
        self.identity = f"{identity}|{conditions.dtype_name}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.label)
        self.stem = f"{name}-{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"

    def score(
        self,
        model: Any,
        tokenizer: Any,
        settings: GenerationSettings,
        kind: str,
        ks: tuple[int, ...],
    ) -> tuple[list[Sample], Scores]:
        """Samples under the settings and their scores, both kept in `out/samples`."""
        conditions, config = self.conditions, self.conditions.config
        total = len(conditions.problems) * settings.samples
        path = self.samples_path(settings, kind)
        samples = complete_all(
            model,
            tokenizer,
            conditions.problems,
            settings,
            identity=self.identity,
            batch_size=config.batch_size,
            path=path,
            on_done=lambda count: self.progress(f"{kind}: generate", count, total),
        )
        verdicts = judge(
            samples,
            conditions.problems,
            config.limits,
            config.workers,
            lambda: self.progress(f"{kind}: run", 1, total),
        )
        save_verdicts(path.with_suffix(".results.jsonl"), samples, verdicts)
        return samples, summarize(samples, verdicts, ks)

    def samples_path(self, settings: GenerationSettings, kind: str) -> Path:
        """One file for each model, benchmark and setting; more samples go to the same file."""
        one = replace(settings, samples=1)  # more samples are appended to those already drawn
        suffix = hashlib.sha256(
            f"{self.conditions.benchmark.name}|{one.signature}".encode()
        ).hexdigest()[:8]
        return self.conditions.config.out / "samples" / f"{self.stem}-{kind}-{suffix}.jsonl"
