"""How a student's trunk computes: as it is, compiled, or in less memory."""

import torch
from transformers import PreTrainedModel

from distill.errors import DistillError
from distill.learning.blocks import blocks_of
from distill.settings.recipe import Recipe


def prepare_trunk(student: PreTrainedModel, recipe: Recipe, device: torch.device) -> None:
    """Let the student's trunk compute as the recipe says; weights and their names stay.

    Raises:
        DistillError: it is to be compiled, and nothing can be compiled here.
    """
    if recipe.gradient_checkpointing:
        # Newer transformers warn of the name that older ones know.
        enable = getattr(student, "activation_checkpointing_enable", None)
        (enable or student.gradient_checkpointing_enable)({"use_reentrant": False})
    if recipe.compile:
        require_compiler(device)
        # Each block by itself: they share one graph, and what gradient checkpointing does, which
        # cannot be compiled at changing lengths, stays around it.
        for block in blocks_of(student):
            block.compile(dynamic=True)  # documents have all lengths


def require_compiler(device: torch.device) -> None:
    """Raise DistillError unless torch.compile can build a small kernel for the device."""
    try:
        torch.compile(lambda ones: ones + 1)(torch.ones(2, device=device))
    except Exception as error:  # of dynamo, of inductor or of what they call
        reason = str(error).strip().splitlines()[0]
        raise DistillError(
            f"the recipe says compile: true, but torch.compile builds nothing for {device.type} "
            f"here ({type(error).__name__}: {reason}). It needs a C++ compiler (apt-get install "
            "g++), and Triton on a GPU. Install them, or train without compile."
        ) from error
