"""Checkpoints: all that a run needs to go on as if it had never stopped.

    checkpoints/step-00000024/
        config.json, generation_config.json, model.safetensors   opens with transformers
        adapter_config.json, adapter_model.safetensors           in their place: adapters alone,
                        for peft, with the hash of the weights they belong to
        optimizer.pt    AdamW's moments
        rng.pt          random states of python, numpy, torch and CUDA, for each process
        state.json      epoch, step, losses, what the loss scaler and the learning rate's schedule
                        know, and the checksums of all these files

Which of them are kept is said in `distill.run.checkpoint_folder`. Nothing in them is unpickled:
tensors are read with `weights_only=True`.
"""

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate.utils import gather_object

from cache.machine.durable import new_directory, read_sealed_json
from distill.errors import DistillError
from distill.learning.learner import Learner
from distill.learning.lora import has_adapters, load_adapters, save_adapters
from distill.run.checkpoint_folder import (
    STATE_FILE,
    checkpoint_path,
    remove_checkpoints,
    seal_checkpoint,
)
from distill.run.failures import explained, in_the_main_process


@dataclass
class TrainState:
    """How far a run has come."""

    epoch: int = 0
    """Epochs finished."""
    epoch_step: int = 0
    """Optimizer steps finished of the epoch after those."""
    step: int = 0
    """Optimizer steps finished."""
    seconds: float = 0.0
    """Time spent in optimizer steps."""
    num_tokens: int = 0
    """Tokens trained on, without padding."""
    num_overflows: int = 0
    """Steps left out because their gradients overflowed in fp16."""
    epoch_rows: int = 0
    """Rows of targets in the steps of the last epoch so far."""
    epoch_sums: dict[str, float] = field(default_factory=dict)
    """Sums of the `train_*` losses over these rows."""
    validation: dict[str, float] = field(default_factory=dict)
    """The last `val_*` losses."""
    best: dict[str, float] = field(default_factory=dict)
    """`epoch`, `step` and `value` of the best validation so far; empty before the first. Its epoch
    is the one in which, or at whose end, it was."""

    @property
    def epochs_since_best(self) -> int:
        """Whole epochs without a better validation, at their ends or in between."""
        return max(0, self.epoch - int(self.best.get("epoch", self.epoch)))

    @property
    def losses(self) -> dict[str, float]:
        """Means of the `train_*` losses over the last epoch so far, and the last `val_*` losses."""
        num_rows = max(self.epoch_rows, 1)
        trained = {name: total / num_rows for name, total in self.epoch_sums.items()}
        return {**trained, **self.validation}

    def add_step(self, losses: dict[str, float], *, num_rows: int) -> None:
        """Count a step and its mean losses."""
        if self.epoch_step == 0:
            self.epoch_rows, self.epoch_sums = 0, dict.fromkeys(losses, 0.0)
        self.step += 1
        self.epoch_step += 1
        self.epoch_rows += num_rows
        for name, mean in losses.items():
            self.epoch_sums[name] += mean * num_rows

    def note_validation(self, epoch: int, best_by: str) -> bool:
        """Remember the last validation if it is the best so far, by one of its measures; whether
        it is."""
        value = self.validation[f"val_{best_by}"]
        sign = -1 if best_by == "top1" else 1
        is_best = not self.best or sign * value < sign * self.best["value"]
        if is_best:
            self.best = {"epoch": epoch, "step": self.step, "value": value}
        return is_best


def save_checkpoint(folder: Path, state: TrainState, learner: Learner) -> None:
    """Write a checkpoint, whole or not at all, and then remove the older ones.

    All processes call this: each contributes its random state, the main one writes.

    Raises:
        DistillError: it cannot be written, as on a full disk; the last one is still there.
    """
    accelerator = learner.accelerator
    rng_states = gather_object([rng_state(accelerator.device)])

    def write() -> None:
        what = f"the checkpoint of step {state.step} in {folder}"
        with explained(what, checkpoints=folder):
            _write_checkpoint(folder, state, learner, rng_states)
            remove_checkpoints(folder)

    in_the_main_process(write, is_main=accelerator.is_main_process)


def _write_checkpoint(
    folder: Path, state: TrainState, learner: Learner, rng_states: list[dict[str, Any]]
) -> None:
    scaler = learner.accelerator.scaler
    parts = {
        "scaler": None if scaler is None else scaler.state_dict(),
        "schedule": learner.schedule.state_dict(),
    }
    with new_directory(checkpoint_path(folder, state.step), OSError) as tmp:
        if has_adapters(learner.student):
            save_adapters(learner.student, tmp)
        else:
            # Not in the names of older releases, which some families are saved in.
            learner.student.save_pretrained(tmp, save_original_format=False)
        torch.save(learner.optimizer.state_dict(), tmp / "optimizer.pt")
        torch.save(rng_states, tmp / "rng.pt")
        seal_checkpoint(tmp, {**asdict(state), **parts})


def load_checkpoint(path: Path, learner: Learner, *, seed: int) -> TrainState:
    """Put a checkpoint's weights, optimizer, scaler, schedule and random states back.

    Args:
        path: of a sound checkpoint.
        seed: used where the number of processes has changed, so that no saved random
            state belongs to them.

    Raises:
        DistillError: it is not what this version writes, or its adapters are of other weights.
    """
    accelerator = learner.accelerator
    try:
        saved = read_sealed_json(path / STATE_FILE)
        scaler_state, schedule_state = saved.pop("scaler"), saved.pop("schedule")
        del saved["files"]
        state = TrainState(**saved)
        if has_adapters(learner.student):
            load_adapters(learner.student, path)
        else:
            safetensors.torch.load_model(learner.student, path / "model.safetensors")
        learner.optimizer.load_state_dict(_load_tensors(path / "optimizer.pt"))
        learner.schedule.load_state_dict(schedule_state)
        rng_states = _load_tensors(path / "rng.pt")
    except DistillError:
        raise
    except Exception as error:
        raise DistillError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}). "
            f"Remove {path.parent.parent} and train anew."
        ) from error
    if accelerator.scaler is not None and scaler_state is not None:
        accelerator.scaler.load_state_dict(scaler_state)
    if len(rng_states) == accelerator.num_processes:
        set_rng_state(rng_states[accelerator.process_index], accelerator.device)
    else:
        seed_process(seed + state.step, accelerator.process_index)
    return state


def seed_process(seed: int, rank: int) -> None:
    """Seed python, numpy and torch, differently in each process so that dropout differs."""
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Random states of this process, as plain values and tensors."""
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [legacy[0], legacy[1].tolist(), *legacy[2:]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(saved: dict[str, Any], device: torch.device) -> None:
    """Put the random states of `rng_state` back."""
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if device.type == "cuda" and saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"], device)


def _load_tensors(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
