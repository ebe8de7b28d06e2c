"""Train a student from a cache with transformers' Trainer: the program of docs/python.md, whole.

python examples/trainer.py --cache runs/cache --out runs/trainer
torchrun --nproc-per-node 2 examples/trainer.py --cache runs/cache --out runs/trainer --accumulate 2
"""

from pathlib import Path
from typing import Any

import click
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from distill import CachedDataset, distillation_loss


class DistillationTrainer(Trainer):
    """A Trainer whose loss comes from a cache, as a mean over the rows of the whole step."""

    loss_is_scaled_for_ga = True  # by the rows of all microbatches, below

    def __init__(self, *args, temperature: float, alpha: float, **options):
        """As Trainer; temperature and alpha as in a recipe."""
        super().__init__(*args, **options)
        self.model_accepts_loss_kwargs = True  # or the labels of a step are not counted
        self.temperature, self.alpha = temperature, alpha

    def _get_train_sampler(self, train_dataset=None):
        dataset: Any = self.train_dataset
        size = self.args.per_device_train_batch_size
        return dataset.sampler(batch_size=size, seed=self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the rows of the optimizer step, of all microbatches and processes."""
        batch = inputs["batch"].to(self.args.device)
        sums = distillation_loss(model, batch, self.temperature, self.alpha)
        # Data parallelism averages gradients over processes, and a sum is wanted.
        loss = sums.loss * self.accelerator.num_processes / num_items_in_batch
        return (loss, {}) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Mean over all rows of the split, of which each process reads its share.

        Trainer's own is a mean over batches, whatever their rows, and several processes fill up
        with documents that they have read before.
        """
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        mine = list(range(self.args.process_index, len(dataset), self.args.world_size))
        size = self.args.per_device_eval_batch_size
        model: Any = self.model
        model.eval()
        total, num_rows = 0.0, 0
        with torch.no_grad(), self.accelerator.autocast():
            for start in range(0, len(mine), size):
                documents = dataset.reader.read(dataset.split, mine[start : start + size])
                batch = dataset.collate(documents).to(self.args.device)
                sums = distillation_loss(model, batch, self.temperature, self.alpha)
                total, num_rows = total + float(sums.loss), num_rows + batch.num_rows
        local = torch.tensor([total, num_rows], dtype=torch.float32, device=self.args.device)
        loss, rows = self.accelerator.reduce(local, reduction="sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / rows}
        self.log(metrics)
        handler = self.callback_handler
        self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Collator:
    """Batches as Trainer takes them; it counts the rows of a step by `shift_labels`."""

    def __init__(self, dataset: CachedDataset):
        """`dataset` knows how to pad."""
        self.dataset = dataset

    def __call__(self, documents) -> dict[str, Any]:
        """A batch of documents."""
        batch = self.dataset.collate(documents)
        return {"batch": batch, "labels": batch.labels, "shift_labels": batch.labels}


def build_model(student: str, vocab_size: int, tokenizer) -> PreTrainedModel:
    """Pretrained weights of a folder or hub id, or a GPT-2 of LAYERSxWIDTHxHEADS."""
    if Path(student).is_dir() or "/" in student:
        return AutoModelForCausalLM.from_pretrained(student)
    layers, width, heads = map(int, student.split("x"))
    config = GPT2Config(
        vocab_size=vocab_size, n_layer=layers, n_embd=width, n_head=heads,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


@click.command()
@click.option("--cache", required=True, help="Cache directory.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Run directory.")
@click.option("--student", default="2x128x4", help="LAYERSxWIDTHxHEADS, a folder or a hub id.")
@click.option("--temperature", default=2.0, help="1 to 4.")
@click.option("--alpha", default=0.5, help="Weight of the teacher's term, 0 to 1.")
@click.option("--epochs", default=3.0)
@click.option("--batch-size", default=4, help="Documents of a microbatch, on each device.")
@click.option("--accumulate", default=4, help="Microbatches of a step, on each device.")
@click.option("--lr", default=3e-4)
@click.option("--workers", default=2, help="Processes that read ahead.")
@click.option("--seed", default=0)
def main(
    cache: str, out: str, student: str, temperature: float, alpha: float, epochs: float,
    batch_size: int, accumulate: int, lr: float, workers: int, seed: int,
) -> None:  # fmt: skip
    """Train, evaluate and save; the same command resumes from the last checkpoint."""
    set_seed(seed)
    train, validation = CachedDataset(cache), CachedDataset(cache, "validation")
    tokenizer = AutoTokenizer.from_pretrained(train.reader.tokenizer_path)
    trainer = DistillationTrainer(
        model=build_model(student, train.reader.vocab_size, tokenizer),
        args=TrainingArguments(
            out,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            learning_rate=lr,
            max_grad_norm=1.0,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            logging_steps=10,
            seed=seed,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,  # a batch is no set of columns
            prediction_loss_only=True,
            dataloader_num_workers=workers,
        ),
        data_collator=Collator(train),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        temperature=temperature,
        alpha=alpha,
    )
    last = get_last_checkpoint(out) if Path(out).is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    eval_loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        click.echo(f"eval_loss {eval_loss:.4f}; saved to {out}")


if __name__ == "__main__":
    main()
