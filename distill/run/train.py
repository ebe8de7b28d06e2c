"""Train one student from a cache: epochs, validation, checkpoints, and a folder to load."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from cache.machine.durable import write_json
from cache.reading.reader import CacheReader
from distill.batches.batch import padding_id
from distill.batches.epochs import Epochs
from distill.errors import DistillError
from distill.learning.learner import AGAINST_DIVERGENCE, Learner, Losses
from distill.learning.lora import count_weights
from distill.learning.precision import start_accelerator
from distill.learning.student import first_student
from distill.loss.divergences import require_divergence_fits
from distill.run.card import model_card
from distill.run.checkpoint import TrainState, load_checkpoint, save_checkpoint, seed_process
from distill.run.checkpoint_folder import (
    CHECKPOINTS,
    last_sound_checkpoint,
    remove_checkpoints,
)
from distill.run.failures import explained, in_the_main_process
from distill.run.logs import RunLogs, open_logs, read_metrics
from distill.run.plots import plot_run
from distill.run.progress import TrainProgress, console
from distill.run.result import TrainResult, run_facts
from distill.run.run_folder import (
    BEST,
    METRICS_FILE,
    RUN_FILE,
    finish_run,
    new_run,
    remove_leftovers,
    require_usable,
    save_best,
    settle_best,
)
from distill.run.run_lock import run_lock
from distill.samples.completions import complete_prompts
from distill.samples.prompts import Prompt, read_prompts
from distill.settings.config import TrainConfig

SAVE_SECONDS = 600.0
"""What a kill costs at most, in seconds of training, where steps are slow; see `save_every`."""


def train(config: TrainConfig, *, reader: CacheReader | None = None) -> TrainResult:
    """Train a student as a recipe says, and leave it as a Hugging Face folder in `out`.

    Started with `accelerate launch` it runs on several devices; a recipe means the same on
    any number of them. Killed at any moment, it goes on with `resume=True`, and on CPU ends
    with the same bits.

    Args:
        reader: an open cache to use instead of opening `config.cache`.

    Raises:
        DistillError: the directory is taken or another process writes to it, the run was
            another one, the recipe does not fit the cache or the device, or a loss or the
            weights are no longer finite.
        CacheError: the cache is incomplete or damaged.
    """
    if reader is None:
        with CacheReader(config.cache) as opened:
            return train(config, reader=opened)
    transformers_logging.disable_progress_bar()  # one bar is enough
    accelerator = start_accelerator(config.recipe.precision)
    with run_lock(config.out):
        run = require_usable(config, reader)
        accelerator.wait_for_everyone()
        training = _Training(config, reader, accelerator, run or new_run(config, reader))
        result = training.to_the_end()
    accelerator.free_memory()
    return result


class _Training:
    """One run, in one of its processes."""

    def __init__(
        self, config: TrainConfig, reader: CacheReader, accelerator: Accelerator, run: dict
    ) -> None:
        """Build the student and what it learns from, or go on from the last checkpoint."""
        recipe = config.recipe
        self.config, self.recipe, self.reader = config, recipe, reader
        self.accelerator, self.run = accelerator, run
        tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
        self.epochs = Epochs(
            reader,
            recipe,
            pad_id=padding_id(tokenizer),
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        self._require_validation()
        seed_process(recipe.seed, rank=0)  # the same weights in every process
        student = first_student(recipe, reader, tokenizer)
        require_divergence_fits(recipe.divergence, reader.identity.targets.tail)
        self.num_parameters, self.num_trained = count_weights(student)
        self.learner = Learner(student, recipe, accelerator, num_steps=self.epochs.num_steps)
        self.state = TrainState()
        seed_process(recipe.seed, rank=accelerator.process_index)
        checkpoint, complaints = last_sound_checkpoint(config.out / CHECKPOINTS)
        if checkpoint is not None:
            self.state = load_checkpoint(checkpoint, self.learner, seed=recipe.seed)
        if self.state.step > self.epochs.num_steps:
            raise DistillError(
                f"{config.out} is at step {self.state.step} already, but the recipe asks for "
                f"{self.epochs.num_steps}. Give it more --epochs or --max-steps, or choose another "
                "--out."
            )
        if complaints and accelerator.is_main_process:
            words = f"{'; '.join(complaints)}. Going on from {checkpoint}."
            console.print(words, style="red", markup=False, soft_wrap=True)
        self.prompts: list[Prompt] = []
        if accelerator.is_main_process:
            self.prompts = read_prompts(reader, recipe.sample_prompts)
        self.tokenizer = tokenizer
        self._note_saved()
        self.resumed_from_step = None if checkpoint is None else self.state.step

    def _require_validation(self) -> None:
        """Raise DistillError where the recipe looks at validations and there is no such split."""
        for name in ("early_stopping", "validate_every"):
            if getattr(self.recipe, name) is not None and not self.epochs.has_validation:
                raise DistillError(
                    f"recipe {self.recipe.name}: {name} looks at validations, but the cache at "
                    f"{self.reader.path} has no validation split. Leave it out, or add the split: "
                    "python cli.py cache extend."
                )

    def to_the_end(self) -> TrainResult:
        """Train the epochs that are left and finish the directory."""
        out, is_main = self.config.out, self.accelerator.is_main_process
        self.logs: RunLogs | None = None
        with ExitStack() as stack:
            if is_main:
                remove_leftovers(out)
                settle_best(out, self.state.best)
                remove_checkpoints(out / CHECKPOINTS, up_to=self.state.step)
                write_json(out / RUN_FILE, self.run, DistillError)
                logs = open_logs(
                    self.config,
                    self.run,
                    last_step=self.resumed_from_step,
                    has_samples=bool(self.prompts),
                )
                self.logs = stack.enter_context(logs)
            self.progress = stack.enter_context(
                TrainProgress(
                    self.recipe.name,
                    num_epochs=self.epochs.num_epochs,
                    num_steps=self.epochs.num_steps,
                    first_step=self.state.step,
                    shown=is_main,
                )
            )
            if self.resumed_from_step is None and self.epochs.has_validation:
                self._validate()
                self.progress.epoch(0, self.state.losses)
            while self.state.step < self.epochs.num_steps and not self._stops_early:
                self._train_epoch()
                self._end_epoch()
        return self._finish()

    @property
    def _stops_early(self) -> bool:
        most = self.recipe.early_stopping
        return most is not None and self.state.epochs_since_best >= most

    def _train_epoch(self) -> None:
        state = self.state
        with self.epochs.training_steps(state.epoch, state.epoch_step) as steps:
            began = time.perf_counter()
            for microbatches in steps:
                if self._save_is_due():
                    self._save()
                    began = time.perf_counter()
                lr = self.learner.lr
                losses, grad_norm = self.learner.train_step(microbatches, state.step + 1)
                ended = time.perf_counter()
                self._log_step(losses, grad_norm, lr, ended - began)
                began = ended
                if state.step == self.epochs.num_steps:
                    return
                if self._validates_now:
                    self._validate()
                    self.progress.measured(state.step, state.validation)
                    began = time.perf_counter()

    def _save_is_due(self) -> bool:
        """Whether enough steps, or minutes of the main process's clock, have passed."""
        if self.state.step == self.saved_step:
            return False
        is_late = time.monotonic() - self.saved_at >= SAVE_SECONDS
        is_late = bool(broadcast(torch.tensor(is_late, device=self.accelerator.device)))
        return is_late or self.state.step - self.saved_step >= self.config.save_every

    @property
    def _validates_now(self) -> bool:
        """Whether a validation within the epoch is due; its end has one anyway."""
        every, state = self.recipe.validate_every, self.state
        return (
            every is not None
            and state.step % every == 0
            and state.epoch_step < self.epochs.steps_per_epoch
        )

    def _log_step(self, losses: Losses, grad_norm: float, lr: float, seconds: float) -> None:
        state = self.state
        state.add_step(losses.named("train"), num_rows=losses.num_rows)
        state.seconds += seconds
        state.num_tokens += losses.num_tokens
        tokens_per_s = losses.num_tokens / seconds
        scaler, scaling = self.accelerator.scaler, {}
        if scaler is not None:
            state.num_overflows += not math.isfinite(grad_norm)
            scaling = {"loss_scale": scaler.get_scale(), "num_overflows": state.num_overflows}
        self._log(
            {
                "step": state.step,
                "epoch": state.epoch + 1,
                **losses.named("train"),
                "grad_norm": grad_norm,
                "lr": lr,
                "tokens_per_s": round(tokens_per_s, 1),
                "num_rows": losses.num_rows,
                **scaling,
            }
        )
        self.progress.step(epoch=state.epoch + 1, loss=losses.loss, tokens_per_s=tokens_per_s)

    def _end_epoch(self) -> None:
        """Validate, log, and only then write the checkpoint that takes both for granted."""
        if self.state.epoch_step == self.epochs.steps_per_epoch:
            self.state.epoch, self.state.epoch_step = self.state.epoch + 1, 0
        if self.epochs.has_validation:
            self._validate()
        self.progress.epoch(self._epoch, self.state.losses)
        self._save()

    @property
    def _epoch(self) -> int:
        """Number, from 1 on, of the epoch that runs or has just ended; 0 before the first step."""
        return self.state.epoch + (self.state.epoch_step > 0)

    def _validate(self) -> None:
        """Measure the student, log it with what it writes, and keep it if it is the best so far."""
        state = self.state
        with self.epochs.validation_steps() as steps:
            told = self.progress.validation(steps, self.epochs.num_validation_steps)
            losses = self.learner.measure(told)
        state.validation = losses.named("val")
        if not all(map(math.isfinite, state.validation.values())):
            raise DistillError(
                f"the validation loss became {losses.loss} after step {state.step}. "
                f"{AGAINST_DIVERGENCE}"
            )
        self._log({"step": state.step, "epoch": self._epoch, **state.validation})
        in_the_main_process(self._write_samples, is_main=self.accelerator.is_main_process)
        if state.note_validation(self._epoch, self.recipe.best_by):
            self._in_main(self._save_best, f"the best student in {self.config.out / BEST}")

    def _write_samples(self) -> None:
        if self.logs is not None and self.prompts:
            student = self.learner.student
            with self.accelerator.autocast():
                samples = complete_prompts(
                    student, self.prompts, self.tokenizer, compiled=self.recipe.compile
                )
            self.logs.write_samples(self.state.step, samples)

    def _save_best(self) -> None:
        save_best(
            self.config.out,
            self.run,
            step=self.state.step,
            student=self.learner.student,
            tokenizer_path=self.reader.tokenizer_path,
        )

    def _save(self) -> None:
        self._require_finite_weights()
        if self.logs is not None:
            self.logs.sync()
        save_checkpoint(self.config.out / CHECKPOINTS, self.state, self.learner)
        self._in_main(
            lambda: settle_best(self.config.out, self.state.best),
            f"the best student in {self.config.out / BEST}",
        )
        self._note_saved()

    def _note_saved(self) -> None:
        self.saved_step, self.saved_at = self.state.step, time.monotonic()

    def _in_main(self, work: Callable[[], None], what: str) -> None:
        """Write something in the main process; the others wait, and fail if it does."""

        def write() -> None:
            with explained(what, checkpoints=self.config.out / CHECKPOINTS):
                work()

        in_the_main_process(write, is_main=self.accelerator.is_main_process)

    def _require_finite_weights(self) -> None:
        """A step's losses are those before it: what it made of the weights shows here."""
        if not all(bool(weights.isfinite().all()) for weights in self.learner.student.parameters()):
            raise DistillError(
                f"weights are no longer finite after step {self.state.step}. {AGAINST_DIVERGENCE}"
            )

    def _finish(self) -> TrainResult:
        state = self.state
        result = TrainResult(
            out=self.config.out,
            recipe=self.recipe,
            num_parameters=self.num_parameters,
            num_trained=self.num_trained,
            num_steps=state.step,
            seconds=state.seconds,
            num_tokens=state.num_tokens,
            tokens_per_s=state.num_tokens / max(state.seconds, 1e-9),
            losses=state.losses,
            best=state.best,
            stopped_early=self._stops_early and state.step < self.epochs.num_steps,
            resumed_from_step=self.resumed_from_step,
        )
        if self.accelerator.is_main_process:
            run = {**self.run, **run_facts(result, self.accelerator, self.reader)}
            checkpoints = result.out / CHECKPOINTS
            with explained(f"the student in {result.out}", checkpoints=checkpoints):
                metrics = read_metrics(result.out / METRICS_FILE)
                plot_run(self.recipe.name, metrics, result.out / "plots")
                finish_run(
                    result.out,
                    run,
                    student=self.learner.student,
                    tokenizer_path=self.reader.tokenizer_path,
                    card=model_card(run),
                )
        self.accelerator.wait_for_everyone()
        return result

    def _log(self, values: dict[str, Any]) -> None:
        if self.logs is not None:
            self.logs.write(values)
