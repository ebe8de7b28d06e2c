"""Tokens a second of the teacher alone, and with a student that drafts for it.

What is measured is transformers' own assisted generation, greedy: the draft writes γ tokens, one
pass of the teacher looks at all of them, and what is written is what the teacher alone would write.

Source: Leviathan et al. 2023, algorithm 1.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evaluation.config import LatencySettings
from evaluation.generation.tokens import padding_id, position_limit, why_other_tokens
from evaluation.models.latency import synchronize


@dataclass(frozen=True, kw_only=True)
class DraftSpeed:
    """Greedy generations of the teacher, with and without a draft, one prompt at a time."""

    drafted: int
    """γ: tokens drafted before each pass of the teacher."""
    generations: int
    """Prompts, each completed both ways."""
    alone_tokens_per_second: float
    """New tokens of the teacher alone over its time, in the same run."""
    tokens_per_second: float
    """The same with the draft."""
    speedup: float
    """Of the two."""
    tokens_per_pass: float
    """New tokens over passes of the teacher, with the draft."""
    same: int
    """Generations that are the same tokens both ways; those at a near-tie of two tokens may not
    be, as passes over one and over many tokens round differently."""


def why_no_draft(
    teacher: Any, student: Any, tokenizers: tuple[Any, Any], longest: int
) -> str | None:
    """Why a student cannot draft for the teacher; None where it can.

    Args:
        tokenizers: the teacher's and the student's.
        longest: tokens of a prompt and its completion.
    """
    limit = position_limit(student)
    if limit is not None and limit < longest:
        return f"it has {limit} positions, and a timed generation needs {longest}"
    own, whole = (m.get_output_embeddings().weight.shape[0] for m in (student, teacher))
    return why_other_tokens((own, whole), tokenizers[::-1], "the teacher's")


def measure_draft(
    teacher: Any,
    student: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: LatencySettings,
    drafted: int,
    on_done: Callable[[], None] = lambda: None,
) -> DraftSpeed:
    """Time both ways in turns on each of the first `settings.prompts` prompts.

    Completions end where the teacher ends them, and after `settings.new_tokens` at the latest.

    Args:
        teacher, student: as `load_model` gives them, on one device.
        prompts: token ids, as `encode_opening` gives them.
        drafted: γ, at least 1.
        on_done: called after each prompt.
    """
    student.generation_config.num_assistant_tokens = drafted
    student.generation_config.num_assistant_tokens_schedule = "constant"
    student.generation_config.assistant_confidence_threshold = 0.0
    device = teacher.get_input_embeddings().weight.device
    encoded = [
        torch.tensor([ids[-settings.prompt_tokens :]], device=device)
        for ids in prompts[: settings.prompts]
    ]
    run = _Turn(teacher, padding_id(tokenizer), settings.new_tokens)
    for ids in encoded[: settings.warmup]:
        run(ids, None), run(ids, student)
    alone, assisted = [], []
    for ids in encoded:
        alone.append(run(ids, None))
        assisted.append(run(ids, student))
        on_done()
    counts = [sum(len(made.tokens) for made in way) for way in (alone, assisted)]
    rates = [
        count / sum(made.seconds for made in way)
        for count, way in zip(counts, (alone, assisted), strict=True)
    ]
    return DraftSpeed(
        drafted=drafted,
        generations=len(encoded),
        alone_tokens_per_second=rates[0],
        tokens_per_second=rates[1],
        speedup=rates[1] / rates[0],
        tokens_per_pass=counts[1] / max(sum(made.passes for made in assisted), 1),
        same=sum(one.tokens == two.tokens for one, two in zip(alone, assisted, strict=True)),
    )


@dataclass(frozen=True)
class _Made:
    tokens: list[int]
    seconds: float
    passes: int


class _Turn:
    """One generation of the teacher, timed, and its passes counted."""

    def __init__(self, teacher: Any, pad_id: int, new_tokens: int):
        self.teacher, self.pad_id, self.new_tokens = teacher, pad_id, new_tokens

    @torch.inference_mode()
    def __call__(self, ids: torch.Tensor, student: Any | None) -> _Made:
        passes: list[None] = []
        hook = self.teacher.register_forward_hook(lambda *_: passes.append(None))
        try:
            synchronize(ids.device)
            started = time.perf_counter()
            output = self.teacher.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.new_tokens,
                pad_token_id=self.pad_id,
                use_cache=True,
                assistant_model=student,
            )
            synchronize(ids.device)
            seconds = time.perf_counter() - started
        finally:
            hook.remove()
        return _Made(output[0, ids.shape[1] :].tolist(), seconds, len(passes))
