"""Greedy completions of a few prompts, by the student as it is."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cache.teacher.teacher import max_positions_of
from distill.samples.prompts import MAX_NEW_TOKENS, Prompt


def complete_prompts(
    student: PreTrainedModel, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """`task_id`, `prompt`, `completion` and `reference` of each prompt, with special tokens written
    out.

    No random number is drawn. A prompt as long as the student's positions is left out.
    """
    training = student.training
    student.eval()
    try:
        return [
            {
                "task_id": prompt.task_id,
                "prompt": tokenizer.decode(prompt.prompt_ids),
                "completion": tokenizer.decode(_complete(student, prompt)),
                "reference": tokenizer.decode(prompt.reference_ids),
            }
            for prompt in prompts
            if _num_free(student, prompt)
        ]
    finally:
        student.train(training)


def _num_free(student: PreTrainedModel, prompt: Prompt) -> int:
    """Tokens for which there is room behind a prompt."""
    positions = max_positions_of(student)
    if positions is None:
        return MAX_NEW_TOKENS
    return max(0, min(MAX_NEW_TOKENS, positions - len(prompt.prompt_ids)))


@torch.no_grad()
def _complete(student: Any, prompt: Prompt) -> list[int]:
    ids = torch.from_numpy(prompt.prompt_ids).unsqueeze(0).to(student.device)  # (1, S)
    # What is compiled for whole documents would be compiled again for single tokens.
    with torch.compiler.set_stance("force_eager"):
        written = student.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=_num_free(student, prompt),
            do_sample=False,
            use_cache=True,
        )
    return written[0, ids.shape[1] :].tolist()
