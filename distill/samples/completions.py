"""Greedy completions of a few prompts, by the student as it is."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cache.teacher.teacher import max_positions_of
from distill.batches.batch import padding_id
from distill.samples.prompts import MAX_NEW_TOKENS, Prompt


def complete_prompts(
    student: PreTrainedModel,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    compiled: bool = False,
) -> list[dict[str, Any]]:
    """`task_id`, `prompt`, `completion` and `reference` of each prompt, with special tokens written
    out.

    No random number is drawn. A prompt as long as the student's positions is left out.

    Args:
        compiled: whether parts of the student are; they would be compiled again for single tokens,
            so they run as they are written.
    """
    roomy = [prompt for prompt in prompts if _room(student, prompt) == MAX_NEW_TOKENS]
    tight = [[prompt] for prompt in prompts if 0 < _room(student, prompt) < MAX_NEW_TOKENS]
    completions: dict[Prompt, list[int]] = {}
    training = student.training
    student.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            for together in filter(None, (roomy, *tight)):
                written = _complete(student, together, tokenizer)
                completions.update(zip(together, written, strict=True))
    finally:
        student.train(training)
    return [
        {
            "task_id": prompt.task_id,
            "prompt": tokenizer.decode(prompt.prompt_ids),
            "completion": tokenizer.decode(completions[prompt]),
            "reference": tokenizer.decode(prompt.reference_ids),
        }
        for prompt in prompts
        if prompt in completions
    ]


def _room(student: PreTrainedModel, prompt: Prompt) -> int:
    """Tokens that may stand behind a prompt."""
    positions = max_positions_of(student)
    if positions is None:
        return MAX_NEW_TOKENS
    return max(0, min(MAX_NEW_TOKENS, positions - len(prompt.prompt_ids)))


@torch.no_grad()
def _complete(
    student: Any, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """The tokens of each completion, its end of text included; side by side, as the weights are
    read once a token for them all."""
    length = max(len(prompt.prompt_ids) for prompt in prompts)
    ids = np.full((len(prompts), length), padding_id(tokenizer))  # (B, S), padded on the left
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt.prompt_ids) :] = prompt.prompt_ids
        mask[row, -len(prompt.prompt_ids) :] = 1
    written = student.generate(
        input_ids=torch.from_numpy(ids).to(student.device),
        attention_mask=torch.from_numpy(mask).to(student.device),
        max_new_tokens=min(_room(student, prompt) for prompt in prompts),
        do_sample=False,
        use_cache=True,
    )
    return [_to_its_end(row, tokenizer.eos_token_id) for row in written[:, length:].tolist()]


def _to_its_end(written: list[int], eos_id: int) -> list[int]:
    """Without the padding behind the end of text."""
    return written[: written.index(eos_id) + 1] if eos_id in written else written
