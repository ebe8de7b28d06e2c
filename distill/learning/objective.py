"""A batch to its losses: what is trained, and what data parallelism wraps.

Letters of shapes: B documents, S positions, N rows, D width, V vocabulary.
"""

import torch
from torch import nn
from transformers import GPT2LMHeadModel

from distill.batches.batch import Batch
from distill.loss.fused import head_losses
from distill.loss.terms import LossSums, LossTerms


class Objective(nn.Module):
    """The student with its loss; `forward` gives sums over the rows of a batch.

    Sums, not means: only the optimizer step knows by how many rows to divide. The loss is
    inside the module so that `DistributedDataParallel` sees one forward.
    """

    def __init__(self, student: GPT2LMHeadModel, terms: LossTerms) -> None:
        super().__init__()
        self.student = student
        self.terms = terms

    def forward(self, batch: Batch) -> LossSums:
        """Loss sums of a batch, at least fp32, with the gradient of `loss`."""
        hidden = row_states(self.student, batch)
        head = self.student.lm_head.weight
        return head_losses(hidden, head, batch.labels, batch.targets, self.terms)


def row_states(student: GPT2LMHeadModel, batch: Batch) -> torch.Tensor:
    """(N, D) final hidden states of the rows that count; the others never meet the head.

    No attention mask: padding is on the right and attention is causal, so no row can see
    it, and the fastest attention kernels take no mask. Where positions start again at 0,
    transformers masks what came before, so that packed documents do not see each other.
    """
    embedded = student.transformer.wte(batch.input_ids)  # (B, S, D)
    outputs = student.transformer(
        inputs_embeds=embedded, position_ids=batch.position_ids, use_cache=False
    )
    return outputs.last_hidden_state.flatten(0, 1)[batch.places]
