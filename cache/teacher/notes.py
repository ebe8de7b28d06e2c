"""What whoever reads a cache's fidelity should know of its teacher, in sentences."""

from collections.abc import Sequence

import torch

from cache.data.documents import Document
from cache.teacher.load import num_token_ids
from cache.teacher.rows import logit_slices
from cache.teacher.teacher import Teacher

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Settings that tell of experts: Qwen, Mixtral and gpt-oss, DeepSeek, others."""


def teacher_notes(teacher: Teacher, documents: Sequence[Document], tokenizer) -> tuple[str, ...]:
    """Of rows of the head that are no token's, and of experts.

    Args:
        documents: some of the job's, on which the mass of such rows is measured.
    """
    notes = []
    num_tokens = num_token_ids(tokenizer)
    if num_tokens < teacher.vocab_size and documents:
        mass = mass_beyond(teacher, documents, num_tokens)
        notes.append(
            f"The teacher's head has {teacher.vocab_size:,} rows, its tokenizer {num_tokens:,} "
            f"tokens. In the first {len(documents)} documents the teacher gives {mass:.1e} of its "
            "mass to the rows beyond; an even tail gives them none."
        )
    num_experts = _num_experts(teacher)
    if num_experts > 1:
        notes.append(
            f"The teacher routes each token among {num_experts} experts. Batches of another shape "
            "round otherwise, and where two experts are nearly tied another one may be chosen: "
            "cache verify --live shows how far rows then differ."
        )
    return tuple(notes)


@torch.inference_mode()
def mass_beyond(teacher: Teacher, documents: Sequence[Document], num_tokens: int) -> float:
    """Mean probability at T = 1 that a teacher gives to rows of its head from `num_tokens` on."""
    masses = [
        logits.float().softmax(-1)[:, num_tokens:].sum(-1)
        for document in documents
        for logits, _, _ in logit_slices(teacher, [document])
    ]
    return float(torch.cat(masses).mean())


def _num_experts(teacher: Teacher) -> int:
    config = teacher.model.config.get_text_config()
    return max(int(getattr(config, name, None) or 0) for name in EXPERTS)
