"""Low-rank adapters on a student's linear layers, through peft, and the student with them merged.

A layer of weight W computes with W + alpha / rank · B A, of which A and B learn. The student stays
the model that it is: peft puts its layers in the place of the linear ones.

Source: Hu et al. 2021 (LoRA), section 4.1.
"""

import warnings
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cache.teacher.teacher import state_sha256
from distill.errors import DistillError
from distill.settings.recipe import Recipe

ADAPTER_FILE = "adapter_model.safetensors"
_NAME = "default"
_PARTS = (f".lora_A.{_NAME}.", f".lora_B.{_NAME}.")
_BASE = ".base_layer."
_PREFIX = "base_model.model."
_base_hashes: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def add_adapters(student: PreTrainedModel, recipe: Recipe) -> None:
    """Give an adapter to every linear layer that may learn, but the head; nothing else learns then.

    Without a `lora_rank` nothing changes. A is drawn from torch's generator and B is 0: the
    student says what it said before.

    Raises:
        DistillError: peft is not installed, or no linear layer is left to learn.
    """
    rank = recipe.lora_rank
    if rank is None:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DistillError(
            f"recipe {recipe.name}: lora_rank needs peft, which is not installed or does not fit "
            f"transformers ({error}). pip install 'logitcache[lora]'"
        ) from error
    layers = [name for name, module in student.named_modules() if _may_learn(module, student)]
    if not layers:
        raise DistillError(f"recipe {recipe.name}: freeze leaves no linear layer to lora_rank.")
    config = LoraConfig(
        r=rank,
        lora_alpha=recipe.lora_alpha or 2 * rank,
        target_modules=layers,
        base_model_name_or_path=recipe.student,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # of GPT-2's layers, whose weights lie the other way round
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        inject_adapter_in_model(config, student, adapter_name=_NAME)


def _may_learn(module: nn.Module, student: PreTrainedModel) -> bool:
    return (
        isinstance(module, (nn.Linear, Conv1D))
        and module is not student.get_output_embeddings()
        and module.weight.requires_grad
    )


def has_adapters(student: PreTrainedModel) -> bool:
    """Whether `add_adapters` was called."""
    return bool(_adapters(student))


def count_weights(student: PreTrainedModel) -> tuple[int, int]:
    """How many weights a student has, adapters merged, and how many numbers learn."""
    adapters = _adapters(student).values()
    learn = student.num_parameters(only_trainable=True)
    return student.num_parameters() - sum(weight.numel() for weight in adapters), learn


@torch.no_grad()
def merged_state(student: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a student whose adapters are merged, which stays as it is.

    Without adapters it is the student's own.
    """
    layers = dict(student.named_modules())
    state = {}
    for name, tensor in student.state_dict().items():
        layer, _, weight = name.rpartition(_BASE)
        if layer and weight == "weight":
            adapted: Any = layers[layer]
            tensor = tensor + adapted.get_delta_weight(_NAME)
        if not any(part in name for part in _PARTS):
            state[f"{layer}.{weight}" if layer else name] = tensor
    return state


def save_adapters(student: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone, as a folder that peft opens on the model they were added to."""
    configs: Any = student.peft_config
    configs[_NAME].save_pretrained(folder)
    save_file(
        {
            _PREFIX + name: weight.detach().contiguous()
            for name, weight in _adapters(student).items()
        },
        folder / ADAPTER_FILE,
        metadata={"format": "pt", "base_sha256": _base_sha256(student)},
    )


@torch.no_grad()
def load_adapters(student: PreTrainedModel, folder: Path) -> None:
    """Put the adapters of `save_adapters` back.

    Raises:
        DistillError: the student's other weights are not those that they were trained with.
    """
    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        if file.metadata()["base_sha256"] != _base_sha256(student):
            raise DistillError(
                f"the adapters in {folder} were trained on other weights than the student now "
                "begins with. Put its folder back as it was, or train anew."
            )
        for name, weight in _adapters(student).items():
            weight.copy_(file.get_tensor(_PREFIX + name))


def _adapters(student: PreTrainedModel) -> dict[str, nn.Parameter]:
    """A and B of every layer that has them, by peft's names in a file."""
    return {
        name.replace(f".{_NAME}.", "."): weight
        for name, weight in student.named_parameters()
        if any(part in name for part in _PARTS)
    }


def _base_sha256(student: PreTrainedModel) -> str:
    """Hash of what does not learn; taken once."""
    if student not in _base_hashes:
        state = student.state_dict()
        base = {name: state[name] for name in state if not any(part in name for part in _PARTS)}
        _base_hashes[student] = state_sha256(base)
    return _base_hashes[student]
