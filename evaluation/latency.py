"""Time of one generation: a prompt in, a fixed number of new tokens out, one at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evaluation.config import LatencySettings
from evaluation.errors import EvaluationError
from evaluation.generate import encode_prompt, padding_id, position_limit


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of the measured generations, one prompt at a time."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    tokens_per_second: float
    """New tokens over all measured time."""
    generations: int
    distinct_prompts: int
    """Fewer than the generations where the benchmark has fewer problems."""


def measure_latency(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    settings: LatencySettings,
    on_done: Callable[[], None] = lambda: None,
) -> Latency:
    """Latency of greedy generation with transformers' own `generate`, batch 1.

    Every generation has exactly `new_tokens` new tokens: end-of-text is held back, or a model
    that stops early would look fast. Clocks are read with the device idle.

    Args:
        prompts: the benchmark's; the first ones are used, again from the start where they end.

    Raises: EvaluationError when the model has not enough positions for a timed generation.
    """
    encoded = [
        encode_prompt(tokenizer, prompt)[-settings.prompt_tokens :]
        for prompt in prompts[: settings.prompts]
    ]
    _require_room(model, max(map(len, encoded)), settings)
    device = model.get_input_embeddings().weight.device
    for index in range(settings.warmup):
        _generate(model, tokenizer, encoded[index % len(encoded)], settings.new_tokens, device)
    seconds = []
    for index in range(settings.prompts):
        prompt_ids = encoded[index % len(encoded)]
        synchronize(device)
        start = time.perf_counter()
        _generate(model, tokenizer, prompt_ids, settings.new_tokens, device)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
        on_done()
    times_ms = np.array(seconds) * 1e3
    return Latency(
        mean_ms=float(times_ms.mean()),
        median_ms=float(np.median(times_ms)),
        p95_ms=float(np.percentile(times_ms, 95)),
        tokens_per_second=settings.prompts * settings.new_tokens / sum(seconds),
        generations=settings.prompts,
        distinct_prompts=len(set(encoded)),
    )


@torch.inference_mode()
def _generate(
    model: Any, tokenizer: Any, prompt_ids: Sequence[int], new_tokens: int, device: torch.device
) -> None:
    input_ids = torch.tensor([prompt_ids], device=device)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=False,
        num_beams=1,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=padding_id(tokenizer),
        use_cache=True,
        # A teacher's own sampling defaults must not slow it down, nor cause warnings.
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=None,
    )
    made = output.shape[1] - input_ids.shape[1]
    assert made == new_tokens, f"{made} new tokens instead of {new_tokens}"


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
