"""A student's whole optimizer step from a cache, beside training without a teacher and with one.

Sides run in turns over the same documents with the same weights and the same AdamW: from each
cache (read and decoded in a thread, as in training), cross-entropy alone (sliced as the fused loss
is, and as transformers computes it), the teacher's forward in every step with a dense loss, and
transformers' Trainer with a dense loss whose targets are given. Only the cached sides pay for
reading. A teacher that does not fit here is counted: 2 FLOPs a parameter and token for its forward,
6 for a student's step. One optimizer step is `--accumulate` microbatches.

    python cli.py cache-teacher --teacher T --dataset D --split train --limit 16 --tail hidden \
        --out hidden
    python cli.py cache reencode hidden mass --tail mass
    python benchmarks/step.py --teacher T --cache mass --cache hidden
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import click
import torch
from peak import share_of_peak, synchronise
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    Starcoder2Config,
    Starcoder2ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from cache.machine.precision import resolve_dtype
from cache.reading.reader import CacheReader
from cache.teacher.load import load_causal_lm
from distill.batches.batch import Batch, padding_id
from distill.batches.epochs import Epochs
from distill.learning.learner import Learner
from distill.learning.objective import row_states
from distill.learning.precision import start_accelerator
from distill.learning.student import build_student
from distill.loss.fused import CPU_PASS_BYTES, SLICE_BYTES, dtype_of_products
from distill.settings.recipe import Recipe
from distill.settings.shapes import parse_shape


class SlicedCrossEntropy(torch.autograd.Function):
    """Head and cross-entropy with the memory, slices, passes and dtypes of the fused loss."""

    @staticmethod
    def forward(ctx, hidden, head, labels):
        device, dtype = hidden.device.type, dtype_of_products(hidden)
        with torch.autocast(device, enabled=False):
            states, weight = hidden.to(dtype), head.to(dtype)
            hidden_grad, head_grad = torch.zeros_like(hidden), torch.zeros_like(head)
            total = hidden.new_zeros(())
            for rows in torch.arange(len(hidden)).split(max(1, SLICE_BYTES // (4 * len(head)))):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                logits = (states[part] @ weight.T).to(hidden.dtype)
                size = max(1, CPU_PASS_BYTES // (4 * len(head))) if device == "cpu" else len(logits)
                for some, names in zip(logits.split(size), labels[part].split(size), strict=True):
                    log_sums = some.logsumexp(-1, keepdim=True)
                    total += (log_sums.squeeze(-1) - some.gather(-1, names[:, None])[:, 0]).sum()
                    some.sub_(log_sums).exp_()
                    some.scatter_add_(-1, names[:, None], some.new_full((len(some), 1), -1.0))
                grad = logits.to(dtype)
                if dtype == hidden.dtype:
                    torch.mm(grad, weight, out=hidden_grad[part])
                    head_grad.addmm_(grad.T, states[part])
                else:
                    hidden_grad[part] = grad @ weight
                    head_grad += grad.T @ states[part]
        ctx.save_for_backward(hidden_grad, head_grad)
        return total

    @staticmethod
    def backward(ctx, grad):
        return *(saved * grad for saved in ctx.saved_tensors), None


def dense_loss(logits: torch.Tensor, batch: Batch, teacher: torch.Tensor, recipe: Recipe):
    """The recipe's loss in plain torch; `logits` and `teacher` are (N, V)."""
    temperature = recipe.temperature
    log_q = (logits / temperature).log_softmax(-1)
    p = (teacher.float() / temperature).softmax(-1)
    kl = functional.kl_div(log_q, p, reduction="sum")
    ce = functional.cross_entropy(logits, batch.labels, reduction="sum")
    return recipe.alpha * temperature**2 * kl + (1 - recipe.alpha) * ce


class Sides:
    """One student, and the ways to take the first optimizer steps of an epoch."""

    def __init__(
        self, recipe: Recipe, readers: dict[str, CacheReader], teacher, num_steps: int
    ) -> None:
        self.recipe, self.readers, self.teacher = recipe, readers, teacher
        self.num_steps = num_steps
        reader = next(iter(readers.values()))
        tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
        self.pad_id = padding_id(tokenizer)
        student = build_student(
            parse_shape(recipe.student),
            vocab_size=reader.vocab_size,
            max_length=reader.max_length,
            tokenizer=tokenizer,
            dropout=recipe.dropout,
        )
        self.learner = Learner(student, recipe, start_accelerator(recipe.precision), num_steps=1000)
        self.student, self.device = student, self.learner.accelerator.device
        with self._training_steps(reader) as steps:
            self.steps = [[batch.to(self.device) for batch in step] for step in steps]

    @contextmanager
    def _training_steps(self, reader: CacheReader) -> Iterator[Iterator[list[Batch]]]:
        with Epochs(reader, self.recipe, pad_id=self.pad_id).training_steps(0) as steps:
            yield islice(steps, self.num_steps)

    def from_cache(self, reader: CacheReader) -> None:
        with self._training_steps(reader) as steps:
            for microbatches in steps:
                self.learner.train_step(microbatches, 1)

    def with_loss(self, loss: Callable[[Batch], torch.Tensor]) -> None:
        """The learner's step, with another loss: a sum over the rows of a batch."""
        accelerator = self.learner.accelerator
        self.student.train()
        for microbatches in self.steps:
            num_rows = sum(batch.num_rows for batch in microbatches)
            for batch in microbatches:
                with accelerator.autocast():
                    total = loss(batch)
                accelerator.backward(total / num_rows)
            accelerator.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
            self.learner.optimizer.step()
            self.learner.optimizer.zero_grad()

    def sliced_ce(self, batch: Batch) -> torch.Tensor:
        hidden = row_states(self.student, batch)
        return SlicedCrossEntropy.apply(hidden, self.student.lm_head.weight, batch.labels)

    def plain_ce(self, batch: Batch) -> torch.Tensor:
        labels = torch.full_like(batch.input_ids, -100)
        labels.view(-1)[batch.places + 1] = batch.labels
        loss = self.student(batch.input_ids, labels=labels, use_cache=False).loss
        return loss * batch.num_rows

    @torch.no_grad()
    def teacher_logits(self, batch: Batch) -> torch.Tensor:
        """(N, V) in the teacher's dtype."""
        input_ids = batch.input_ids.to(self.teacher.device)
        logits = self.teacher(input_ids=input_ids, use_cache=False).logits
        return logits.flatten(0, 1)[batch.places].to(self.device)

    def dense(self, batch: Batch, teacher: torch.Tensor) -> torch.Tensor:
        logits = self.student(batch.input_ids, use_cache=False).logits.flatten(0, 1)[batch.places]
        return dense_loss(logits.float(), batch, teacher, self.recipe)

    def forward_alone(self) -> None:
        for batch in (batch for step in self.steps for batch in step):
            self.teacher_logits(batch)

    def in_turns(self) -> dict[str, Callable[[], float | None]]:
        """What is timed, by name; a side that times itself returns its seconds."""
        cached = {
            f"from the cache {name}": lambda r=reader: self.from_cache(r)
            for name, reader in self.readers.items()
        }
        return {
            **cached,
            "CE alone, sliced": lambda: self.with_loss(self.sliced_ce),
            "CE alone, transformers": lambda: self.with_loss(self.plain_ce),
            "teacher's forward alone": self.forward_alone,
            "live teacher, dense loss": lambda: self.with_loss(
                lambda batch: self.dense(batch, self.teacher_logits(batch))
            ),
            "Trainer, dense targets": DenseTrainer(self).run,
        }


class DenseTrainer(Trainer):
    """transformers' Trainer with the dense loss; dense targets are given as a cache would."""

    def __init__(self, sides: Sides) -> None:
        self.sides, self.clock, recipe = sides, Clock(), sides.recipe
        given = [(b, sides.teacher_logits(b).half()) for step in sides.steps for b in step]
        precision = sides.learner.accelerator.mixed_precision
        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=1,  # an item is a whole microbatch
            gradient_accumulation_steps=recipe.accumulate,
            num_train_epochs=1,
            learning_rate=recipe.lr,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        super().__init__(
            sides.student,
            arguments,
            train_dataset=given,
            data_collator=lambda items: {"given": items[0]},
            callbacks=[self.clock],
        )
        self.remove_callback(PrinterCallback)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the rows of a microbatch."""
        batch, teacher = inputs["given"]
        return self.sides.dense(batch, teacher) / batch.num_rows

    def run(self) -> float:
        """Seconds of the steps, without setting them up."""
        self.train()
        return self.clock.seconds


class Clock(TrainerCallback):
    """The time from the first step to the end of the last one."""

    def on_train_begin(self, *args, **kwargs):
        self.started = time.perf_counter()

    def on_train_end(self, *args, **kwargs):
        synchronise()
        self.seconds = time.perf_counter() - self.started


def print_counted() -> None:
    """Steps with StarCoder2-3B in the loop, in FLOPs of the same student's step without."""
    with torch.device("meta"):
        teacher = Starcoder2ForCausalLM(Starcoder2Config()).num_parameters()
    for name, student in (("44m", 44_343_296), ("202m", 202_012_672)):
        ratio = 1 + 2 * teacher / (6 * student)
        print(f"StarCoder2-3B ({teacher:,}) live, {name}: {ratio:.1f} x the FLOPs (computed)")


@click.command()
@click.option("--teacher", required=True, help="Of the caches: hub id, folder or .gguf file.")
@click.option("--cache", "caches", multiple=True, required=True, help="Repeat it; one is `mass`.")
@click.option("--student", default="44m")
@click.option("--batch-size", default=4)
@click.option("--accumulate", default=1)
@click.option("--steps", "num_steps", default=4, help="Optimizer steps of a turn.")
@click.option("--precision", default="auto")
@click.option("--repeats", default=3)
def main(teacher, caches, student, batch_size, accumulate, num_steps, precision, repeats):
    """Print seconds of an optimizer step, and ratios to the first cache and to CE alone."""
    recipe = Recipe(
        name="step",
        student=student,
        temperature=2.0,
        alpha=0.5,
        epochs=1,
        batch_size=batch_size,
        accumulate=accumulate,
        precision=precision,
    )
    model = load_causal_lm(teacher, dtype=resolve_dtype("auto"))
    readers = {Path(path).name: CacheReader(path) for path in caches}
    sides = Sides(recipe, readers, model, num_steps)
    num_tokens = sum(batch.num_tokens for step in sides.steps for batch in step)
    print(
        f"{student}, {len(sides.steps)} steps of {num_tokens / len(sides.steps):.0f} tokens, best "
        f"of {repeats}, {sides.device}, {torch.get_num_threads()} threads"
    )
    timed = sides.in_turns()
    best = dict.fromkeys(timed, float("inf"))
    for repeat in range(repeats + 1):  # the first round warms up
        for name, side in timed.items():
            synchronise()
            started = time.perf_counter()
            own = side()
            synchronise()
            seconds = time.perf_counter() - started if own is None else own
            if repeat:
                best[name] = min(best[name], seconds)
    first = next(iter(best))
    print(f"{'':28s} {'s/step':>8s} {'tokens/s':>9s} {'x first':>8s} {'x CE':>8s}")
    for name, seconds in best.items():
        print(
            f"{name:28s} {seconds / len(sides.steps):8.3f} {num_tokens / seconds:9.1f} "
            f"{seconds / best[first]:8.2f} {seconds / best['CE alone, sliced']:8.2f}"
        )
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        sides.learner.accelerator.mixed_precision, torch.float32
    )
    flops = 6 * sides.student.num_parameters() * num_tokens
    print(f"{first}: {share_of_peak(flops, best[first], sides.device, dtype)}")
    print_counted()


if __name__ == "__main__":
    main()
