"""One optimizer step, and a measurement without one.

Sums over rows are divided by the rows of the whole optimizer step: all microbatches of all
processes. How documents are spread over them then changes nothing.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from distill.batches.batch import Batch
from distill.errors import DistillError
from distill.learning.objective import Objective
from distill.learning.optimizer import build_optimizer
from distill.learning.schedules import lr_schedule, terms_at
from distill.learning.trunk import prepare_trunk
from distill.loss.terms import LossSums
from distill.settings.recipe import Recipe

AGAINST_DIVERGENCE = (
    "Try a lower lr or clip, or precision: fp32, and check the cache with "
    "python cli.py cache verify if it happens again."
)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Mean losses per row, in nats, and what they are means of."""

    loss: float
    """alpha · distillation + (1 - alpha) · ce."""
    distillation: float
    """The teacher's term: T² · KL of the student from the teacher, or another divergence."""
    ce: float
    """Cross-entropy with the token that follows."""
    num_rows: int
    """Rows, over all processes."""
    num_tokens: int
    """Tokens that went through the student, over all processes, without padding."""

    def named(self, prefix: str) -> dict[str, float]:
        """The three losses as metrics: `<prefix>_loss` and so on."""
        return {
            f"{prefix}_loss": self.loss,
            f"{prefix}_distillation_loss": self.distillation,
            f"{prefix}_ce_loss": self.ce,
        }


@dataclass(frozen=True, kw_only=True)
class Measured(Losses):
    """Losses of a validation, and what compares students that are trained by other ones.

    Yardsticks are means over all rows, whatever rows a recipe's loss counts.
    """

    kl: float
    """KL of the student from the teacher at T = 1, in nats."""
    cross_entropy: float
    """With the token that follows, in nats."""
    top1: float
    """Share of rows whose most likely token is the teacher's."""

    def named(self, prefix: str) -> dict[str, float]:
        """The three yardsticks, `<prefix>_kl` and so on, and then the losses."""
        return {
            f"{prefix}_kl": self.kl,
            f"{prefix}_cross_entropy": self.cross_entropy,
            f"{prefix}_top1": self.top1,
            **super().named(prefix),
        }


class Learner:
    """A student with its optimizer, on the devices of an Accelerator."""

    def __init__(
        self,
        student: PreTrainedModel,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        num_steps: int,
    ) -> None:
        """`num_steps` of the whole run: schedules end with it."""
        self.student = student
        self.num_steps = num_steps
        self.recipe = recipe
        self.accelerator = accelerator
        prepare_trunk(student, recipe, accelerator.device)
        objective = Objective(student, terms_at(recipe, 0.0))
        optimizer = build_optimizer(
            objective.parameters(), recipe, scaled=accelerator.scaler is not None
        )
        self.schedule = lr_schedule(recipe, optimizer, num_steps)
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def train_step(self, microbatches: Sequence[Batch], step: int) -> tuple[Losses, float]:
        """One optimizer step; the losses before it, and the gradient's norm before clipping.

        Args:
            microbatches: this process's share, at least one.
            step: its number in the run, from 1 on.

        Raises:
            DistillError: a loss or the gradient is not finite; with a loss scaler, the gradient
                is not even without scaling. The weights are untouched.
        """
        self.objective.train()
        self._use_terms((step - 1) / max(self.num_steps - 1, 1))
        losses = self.accumulate_gradients(microbatches, step)
        grad_norm = float(
            self.accelerator.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        )
        if not math.isfinite(grad_norm):
            self._require_skippable(step, grad_norm, microbatches)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.optimizer.zero_grad()
        return losses, grad_norm

    def accumulate_gradients(self, microbatches: Sequence[Batch], step: int) -> Losses:
        """Add the gradient of the step's mean loss; all processes get the same losses."""
        num_rows, num_tokens = self._count(microbatches)
        # Data parallelism averages gradients over processes; a sum is wanted.
        scale = self.accelerator.num_processes / max(num_rows, 1)
        sums = []
        for place, batch in enumerate(microbatches, start=1):
            is_last = place == len(microbatches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                losses = self.objective(batch.to(self.accelerator.device))
                self.accelerator.backward(losses.loss * scale)
            sums.append(_stacked(losses))
        per_batch = torch.stack(sums)  # (microbatches, 3)
        means = self._means(per_batch.sum(0), num_rows, num_tokens)
        if not math.isfinite(means.loss + means.distillation + means.ce):
            finite = per_batch.isfinite().all(-1).tolist()
            culprits = [batch for batch, ok in zip(microbatches, finite, strict=True) if not ok]
            self._stop(step, "the loss", means.loss, culprits)
        return means

    @torch.no_grad()
    def measure(self, steps: Iterable[Sequence[Batch]]) -> Measured:
        """Losses and yardsticks over any number of batches, without dropout and learning nothing.

        Temperature and alpha of the losses are those of the run's last step, so that epochs
        compare.
        """
        self._use_terms(1.0)
        objective = self.accelerator.unwrap_model(self.objective)
        objective.eval()
        sums = torch.zeros(6, device=self.accelerator.device)
        counts = [0, 0, 0]  # rows that the loss counts, all rows, tokens
        for microbatches in steps:
            for batch in microbatches:
                with self.accelerator.autocast():
                    losses, yardsticks = objective.measure(batch.to(self.accelerator.device))
                sums += torch.cat([_stacked(losses), torch.stack(yardsticks).float()])
                num_counted = batch.num_rows if batch.counted is None else len(batch.counted)
                counts = [
                    counts[0] + num_counted,
                    counts[1] + batch.num_rows,
                    counts[2] + batch.num_tokens,
                ]
        objective.train()
        num_counted, num_rows, num_tokens = self._over_processes(counts)
        losses = self._means(sums[:3], num_counted, num_tokens)
        totals = self.accelerator.reduce(sums[3:], reduction="sum").tolist()
        kl, cross_entropy, top1 = (total / max(num_rows, 1) for total in totals)
        return Measured(**vars(losses), kl=kl, cross_entropy=cross_entropy, top1=top1)

    def _use_terms(self, progress: float) -> None:
        objective = self.accelerator.unwrap_model(self.objective)
        objective.terms = terms_at(self.recipe, progress)

    def _count(self, batches: Sequence[Batch]) -> tuple[int, int]:
        counts = [sum(batch.num_rows for batch in batches), sum(b.num_tokens for b in batches)]
        num_rows, num_tokens = self._over_processes(counts)
        return num_rows, num_tokens

    def _over_processes(self, counts: list[int]) -> list[int]:
        if self.accelerator.num_processes == 1:
            return counts
        local = torch.tensor(counts, device=self.accelerator.device)
        return self.accelerator.reduce(local, reduction="sum").tolist()

    def _means(self, sums: torch.Tensor, num_rows: int, num_tokens: int) -> Losses:
        totals = self.accelerator.reduce(sums, reduction="sum").tolist()
        loss, distillation, ce = (total / max(num_rows, 1) for total in totals)
        return Losses(
            loss=loss, distillation=distillation, ce=ce, num_rows=num_rows, num_tokens=num_tokens
        )

    def _require_skippable(self, step: int, norm: float, batches: Sequence[Batch]) -> None:
        """A loss scaler leaves an overflowing step out and tries half the scale, down to 1."""
        scaler = self.accelerator.scaler
        if scaler is None:
            self._stop(step, "the gradient's norm", norm, batches)
        elif scaler.get_scale() <= 1:
            scale = f"at loss scale {scaler.get_scale():g} the gradient's norm"
            self._stop(step, scale, norm, batches)

    def _stop(self, step: int, what: str, value: float, batches: Sequence[Batch]) -> None:
        local = [task_id for batch in batches for task_id in batch.task_ids]
        task_ids = sorted(set(gather_object(local)))
        raise DistillError(
            f"{what} became {value} at step {step}, with problems "
            f"{', '.join(str(task_id) for task_id in task_ids)}. {AGAINST_DIVERGENCE}"
        )


def _stacked(losses: LossSums) -> torch.Tensor:
    return torch.stack([losses.loss, losses.distillation, losses.ce]).detach().float()
