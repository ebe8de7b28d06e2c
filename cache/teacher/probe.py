"""Whether a teacher is what stage one takes it for, tried on the first documents of a job.

Rows are computed from hidden states, in padded batches, from left to right. A model that is not
causal, whose rows depend on what stands beside them, or that changes its logits in a way that its
configuration does not tell, would be cached wrongly without a word.
"""

from collections.abc import Sequence

import torch

from cache.data.documents import Document
from cache.errors import CacheError
from cache.teacher.teacher import Teacher

PROBE_TOKENS = 48
HALF = (torch.bfloat16, torch.float16)


@torch.inference_mode()
def require_understood(teacher: Teacher, documents: Sequence[Document], longest: int) -> None:
    """Raise CacheError, with the reason, where a teacher cannot be cached rightly.

    Args:
        documents: some of the job's; the first of at least two tokens is used.
        longest: tokens of the job's longest document.
    """
    name = type(teacher.model).__name__
    tokens = next((d.token_ids for d in documents if d.num_tokens > 2), None)
    if tokens is None:
        return
    ids = torch.from_numpy(tokens[:PROBE_TOKENS]).unsqueeze(0)
    hidden = teacher.hidden(ids)  # (1, S, D)
    if not torch.isfinite(hidden).all():
        return  # NaN weights are reported with the document that they spoil
    teacher.require_own_logits(ids)
    changed, half = ids.clone(), ids.shape[1] // 2
    changed[0, half:] = (changed[0, half:] + 1) % teacher.vocab_size
    if _differs(teacher.hidden(changed)[:, :half], hidden[:, :half]):
        raise CacheError(
            f"{name} is not causal: other last tokens change the rows before them. Soft targets "
            "of next tokens cannot be had from it; use a causal language model."
        )
    if any(document.isolated for document in documents):
        _require_isolation(teacher, ids, hidden)
    beside = torch.zeros(2, max(longest, ids.shape[1] + 1), dtype=ids.dtype)
    beside[0, : ids.shape[1]] = ids[0]
    beside[1] = (torch.arange(beside.shape[1]) * 7 + 1) % teacher.vocab_size
    if _differs(teacher.hidden(beside)[:1, : ids.shape[1]], hidden):
        raise CacheError(
            f"{name} gives other rows to a document of {ids.shape[1]} tokens when one of "
            f"{beside.shape[1]} stands beside it (positions scaled by the longest text, or experts "
            "with a capacity). Its targets would depend on the batch: give a --max-length below "
            "the length at which it changes, or take another teacher."
        )


def _require_isolation(teacher: Teacher, ids: torch.Tensor, alone: torch.Tensor) -> None:
    """Raise CacheError where a text is seen by the one that is packed behind it."""
    places = torch.arange(ids.shape[1]).unsqueeze(0)
    packed = teacher.hidden(torch.cat([ids.flip(1), ids], 1), torch.cat([places, places], 1))
    if _differs(packed[:, ids.shape[1] :], alone):
        raise CacheError(
            f"{type(teacher.model).__name__} lets packed texts see each other, whatever their "
            "positions. Leave --isolate out, or take another teacher."
        )


def _differs(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Beyond what another shape of the same products rounds."""
    tolerance = 5e-2 if expected.dtype in HALF else 1e-3
    difference = (found.float() - expected.float()).norm(dim=-1)  # (1, S)
    return bool((difference > tolerance * expected.float().norm(dim=-1) + 1e-6).any())
