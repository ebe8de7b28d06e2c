"""A batch to its losses: what is trained, and what data parallelism wraps.

Letters of shapes: B sequences, S positions, N rows, D width, V vocabulary.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from distill.batches.batch import Batch
from distill.errors import DistillError
from distill.learning.causal_lm import plain_head, trunk_states, unwrapped
from distill.loss.fused import head_losses, head_yardsticks
from distill.loss.terms import LossSums, LossTerms, YardstickSums


class Objective(nn.Module):
    """The student with its loss; `forward` gives sums over the rows of a batch.

    Sums, not means: only the optimizer step knows by how many rows to divide. The loss is
    inside the module so that `DistributedDataParallel` sees one forward.
    """

    def __init__(self, student: PreTrainedModel, terms: LossTerms) -> None:
        super().__init__()
        self.student = student
        self.terms = terms

    def forward(self, batch: Batch) -> LossSums:
        """Loss sums of a batch, at least fp32, with the gradient of `loss`."""
        return self._losses(row_states(self.student, batch), batch)

    @torch.no_grad()
    def measure(self, batch: Batch) -> tuple[LossSums, YardstickSums]:
        """Loss sums over the rows that `loss_on` counts, yardsticks over all rows of a batch."""
        hidden = row_states(self.student, batch)
        yardsticks = head_yardsticks(hidden, self._head, batch.labels, batch.targets)
        if batch.counted is not None:
            hidden, batch = hidden[batch.counted], batch.select(batch.counted)
        return self._losses(hidden, batch), yardsticks

    def _losses(self, hidden: torch.Tensor, batch: Batch) -> LossSums:
        return head_losses(hidden, self._head, batch.labels, batch.targets, self.terms)

    @property
    def _head(self) -> torch.Tensor:
        return self.student.get_output_embeddings().weight


def distillation_loss(
    model: nn.Module,
    batch: Batch,
    temperature: float,
    alpha: float,
    *,
    divergence: str = "forward_kl",
) -> LossSums:
    """Loss sums of any causal LM of transformers over the rows of a batch, in nats.

    `loss` is Σ alpha · T² · KL(p_T ‖ q_T) + (1 - alpha) · CE(label, q_1), with p_T the teacher's
    targets at temperature T and q the model's full softmax; divide it by the rows of the whole
    optimizer step (`batch.num_rows`, summed over its microbatches and processes) and call
    `backward`. Output head and loss are computed together, so logits of (N, V) never exist.

    Args:
        model: with a plain output head (no bias, no scaling, no soft cap) over the vocabulary of
            the cache, alone or in DistributedDataParallel. Under autocast, products run in its
            dtype; the loss is fp32.
        batch: of `collate`, on the model's device.
        temperature: T, 1 to 4.
        alpha: weight of the teacher's term, 0 to 1.
        divergence: `forward_kl`, `reverse_kl`, `jensen_shannon` or `total_variation`.

    Raises:
        DistillError: the model's head is not plain, or has another number of rows than the
            targets.
        CacheError: the temperature is outside of what a cache covers.

    Source: Hinton et al. 2015, section 2; Hsu et al. 2024 (Liger Kernel), section 3.2.
    """
    weight = plain_head(model, batch.input_ids)
    if len(weight) != batch.targets.vocab_size:
        raise DistillError(
            f"{type(unwrapped(model)).__name__} has a vocabulary of {len(weight)}, the cache one "
            f"of {batch.targets.vocab_size}. Token ids would mean different words."
        )
    terms = LossTerms(temperature=temperature, alpha=alpha, divergence=divergence)
    return head_losses(row_states(model, batch), weight, batch.labels, batch.targets, terms)


def row_states(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(N, D) final hidden states of the rows that count; the others never meet the head."""
    states = trunk_states(model, batch.input_ids, batch.position_ids)
    return states.flatten(0, 1)[batch.places]
