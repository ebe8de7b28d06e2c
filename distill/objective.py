"""A batch to its losses: what is trained, and what data parallelism wraps.

Letters of shapes: B documents, S positions, N rows, D width, V vocabulary.
"""

import torch
from torch import nn
from transformers import GPT2LMHeadModel

from distill.batches import Batch
from distill.loss import LossSums, distillation_sums


class Objective(nn.Module):
    """The student with its loss; `forward` gives sums over the rows of a batch.

    Sums, not means: only the optimizer step knows by how many rows to divide. The loss is
    inside the module so that `DistributedDataParallel` sees one forward and the logits
    never leave it.
    """

    def __init__(self, student: GPT2LMHeadModel, *, temperature: float, alpha: float) -> None:
        super().__init__()
        self.student = student
        self.temperature = temperature
        self.alpha = alpha

    def forward(self, batch: Batch) -> LossSums:
        """Loss sums of a batch, fp32, with gradients."""
        hidden = row_states(self.student, batch)
        if not batch.num_rows:
            nothing = hidden.float().sum()
            return LossSums(loss=nothing, distillation=nothing, ce=nothing)
        return head_losses(
            self.student.lm_head, hidden, batch, temperature=self.temperature, alpha=self.alpha
        )


def row_states(student: GPT2LMHeadModel, batch: Batch) -> torch.Tensor:
    """(N, D) final hidden states of the rows that count; the others never meet the head.

    No attention mask: padding is on the right and attention is causal, so no row can see
    it, and the fastest attention kernels take no mask.
    """
    embedded = student.transformer.wte(batch.input_ids)  # (B, S, D)
    outputs = student.transformer(inputs_embeds=embedded, use_cache=False)
    return outputs.last_hidden_state.flatten(0, 1)[batch.rows]


def head_losses(
    head: nn.Linear, hidden: torch.Tensor, batch: Batch, *, temperature: float, alpha: float
) -> LossSums:
    """Loss sums from hidden states (N, D) through the output head (V, D)."""
    logits = head(hidden)  # (N, V)
    with torch.autocast(hidden.device.type, enabled=False):
        return distillation_sums(
            logits, batch.labels, batch.targets, temperature=temperature, alpha=alpha
        )
