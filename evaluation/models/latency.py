"""Time of one generation: prompts in, a fixed number of new tokens out, alone and in a batch.

What is measured is transformers' own `generate`, with a key-value cache, after warming up, with
the clock read while the device is idle. The time to the first token is taken inside the same
generation, so that the two parts add up to the whole.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from evaluation.config import LatencySettings
from evaluation.errors import EvaluationError
from evaluation.generation.tokens import left_pad, padding_id, position_limit


@dataclass(frozen=True, kw_only=True)
class GenerationTimes:
    """Times of generations of equal size, over all that were measured."""

    batch: int
    """Prompts at once."""
    mean_ms: float
    """Of a whole generation: the prompts and all new tokens."""
    median_ms: float
    p95_ms: float
    first_token_ms: float
    """Median time to the first token: the prompts read and one token chosen."""
    first_token_p95_ms: float
    per_token_ms: float | None
    """Median time of each further token, of every row at once; None with one new token."""
    per_token_p95_ms: float | None
    tokens_per_second: float
    """New tokens of all rows over all measured time."""
    peak_memory_bytes: int | None
    """Most the CUDA device held at once, the weights included. None elsewhere: how much a
    process on the CPU has grown says more about its allocator than about the model."""


@dataclass(frozen=True, kw_only=True)
class Latency(GenerationTimes):
    """Times one prompt at a time, and of batches."""

    generations: int
    distinct_prompts: int
    """Fewer than the generations where the benchmark has fewer problems."""
    batched: GenerationTimes | None
    """Of as many generations, each of several prompts at once; None where none were asked for."""

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Latency":
        """The latency that `dataclasses.asdict` made this of."""
        batched = content["batched"]
        return Latency(**{**content, "batched": GenerationTimes(**batched) if batched else None})


def measure_latency(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: LatencySettings,
    on_done: Callable[[], None] = lambda: None,
) -> Latency:
    """Latency of greedy generation, one prompt at a time and `settings.batch` at a time.

    Every generation has exactly `new_tokens` new tokens: end-of-text is held back, or a model
    that stops early would look fast.

    Args:
        model: as `load_model` gives it, without generation settings of its own.
        prompts: token ids of the benchmark's, as `encode_opening` gives them; the first ones are
            used, again from the start where they end.
        on_done: called after each of the `settings.generations`.

    Raises: EvaluationError when the model has not enough positions for a timed generation, or
        the device not enough memory.
    """
    encoded = [tuple(ids[-settings.prompt_tokens :]) for ids in prompts[: settings.num_prompts]]
    _require_room(model, max(map(len, encoded)), settings)
    clock = _Clock(model, tokenizer, settings)
    one = clock.times(encoded, 1, on_done)
    batched = clock.times(encoded, settings.batch, on_done) if settings.batch > 1 else None
    return Latency(
        **vars(one),
        generations=settings.prompts,
        distinct_prompts=len(set(encoded[: settings.prompts])),
        batched=batched,
    )


class _Clock:
    """Generations of one model, timed."""

    def __init__(self, model: Any, tokenizer: Any, settings: LatencySettings):
        self.model, self.settings = model, settings
        self.pad_id = padding_id(tokenizer)
        self.device = model.get_input_embeddings().weight.device

    def times(
        self, encoded: Sequence[tuple[int, ...]], batch: int, on_done: Callable[[], None]
    ) -> GenerationTimes:
        """Times of `settings.prompts` generations, each of the next `batch` prompts."""
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        groups = [
            [encoded[(index * batch + row) % len(encoded)] for row in range(batch)]
            for index in range(max(self.settings.prompts, self.settings.warmup))
        ]
        for group in groups[: self.settings.warmup]:
            self._generate(group)
        seconds = []  # to the first token, and in all
        for group in groups[: self.settings.prompts]:
            seconds.append(self._generate(group))
            on_done()
        return _summarize(
            np.array(seconds),
            new_tokens=self.settings.new_tokens,
            batch=batch,
            peak_memory_bytes=torch.cuda.max_memory_allocated(self.device) if on_cuda else None,
        )

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Seconds to the first token, and of the whole generation."""
        new_tokens = self.settings.new_tokens
        input_ids, mask = (part.to(self.device) for part in left_pad(prompts, self.pad_id))
        first_token = _FirstToken(self.device)
        synchronize(self.device)
        start = time.perf_counter()
        try:
            output = self.model.generate(
                input_ids,
                attention_mask=mask,
                do_sample=False,
                num_beams=1,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=self.pad_id,
                use_cache=True,
                stopping_criteria=StoppingCriteriaList([first_token]),
            )
        except torch.OutOfMemoryError as error:
            raise EvaluationError(
                f"a timed generation of {len(prompts)} prompts does not fit the memory of "
                f"{self.device}. Lower latency_batch, latency_prompt_tokens or latency_tokens"
            ) from error
        synchronize(self.device)
        end = time.perf_counter()
        made = output.shape[1] - input_ids.shape[1]
        assert made == new_tokens, f"{made} new tokens instead of {new_tokens}"
        assert first_token.time is not None
        return first_token.time - start, end - start


class _FirstToken(StoppingCriteria):
    """Stops nothing; notes when the first token was there, and waits for the device only then."""

    def __init__(self, device: torch.device):
        self.device = device
        self.time: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self.time is None:
            synchronize(self.device)
            self.time = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _summarize(
    seconds: np.ndarray, *, new_tokens: int, batch: int, peak_memory_bytes: int | None
) -> GenerationTimes:
    """Statistics of (generations, 2) seconds: to the first token, and in all."""
    first_ms, whole_ms = seconds.T * 1e3
    further_ms = (whole_ms - first_ms) / (new_tokens - 1) if new_tokens > 1 else None
    return GenerationTimes(
        batch=batch,
        mean_ms=float(whole_ms.mean()),
        median_ms=float(np.median(whole_ms)),
        p95_ms=float(np.percentile(whole_ms, 95)),
        first_token_ms=float(np.median(first_ms)),
        first_token_p95_ms=float(np.percentile(first_ms, 95)),
        per_token_ms=None if further_ms is None else float(np.median(further_ms)),
        per_token_p95_ms=None if further_ms is None else float(np.percentile(further_ms, 95)),
        tokens_per_second=len(seconds) * batch * new_tokens / float(seconds[:, 1].sum()),
        peak_memory_bytes=peak_memory_bytes,
    )


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _require_room(model: Any, longest: int, settings: LatencySettings) -> None:
    limit = position_limit(model)
    if limit is not None and longest + settings.new_tokens > limit:
        raise EvaluationError(
            f"latency needs {longest} prompt tokens + {settings.new_tokens} new tokens, and this "
            f"model has {limit} positions. Every model is timed alike, so lower "
            f"latency_prompt_tokens (to {max(1, limit - settings.new_tokens)}) or latency_tokens"
        )
