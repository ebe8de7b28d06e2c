"""Forward passes that are watched: what goes through a model, and through each of its blocks.

B sequences, S positions, D width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from distill.learning.blocks import blocks_of
from distill.learning.causal_lm import PROBE_TOKENS

OnMeasured = Callable[[int, int], None]
"""Called with how many measurements are done, of how many."""


@torch.inference_mode()
def logits(model: nn.Module, text: torch.Tensor) -> torch.Tensor:
    """(S, V) of a text (S,)."""
    ids = text.to(next(model.parameters()).device).unsqueeze(0)
    return model(input_ids=ids, use_cache=False).logits[0]


def read_all(model: nn.Module, texts: Sequence[torch.Tensor], on_measured: OnMeasured) -> None:
    """One pass over each text (S,), for what hooks see of it."""
    for done, text in enumerate(texts, 1):
        logits(model, text)
        on_measured(done, len(texts))


@contextmanager
def hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks that are removed when the block ends."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def states_before(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """(B, S, D) that a block is given."""
    return args[0] if args else kwargs["hidden_states"]


def beside_states(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """What else a block is given, by place and by name."""
    return args[1:], {name: one for name, one in kwargs.items() if name != "hidden_states"}


def states_after(output: Any) -> torch.Tensor:
    """(B, S, D) of what a block returns."""
    return output[0] if isinstance(output, tuple) else output


def probe_ids(model: PreTrainedModel) -> torch.Tensor:
    """(S,) of a few tokens that any model has, to see what it does with them."""
    embedding: Any = model.get_input_embeddings()
    return torch.arange(min(PROBE_TOKENS, len(embedding.weight)), device=model.device)


def calls_of_blocks(model: PreTrainedModel, text: torch.Tensor) -> list[tuple]:
    """What each block was given by place and by name, and the states that it returned."""
    calls: list[tuple] = []
    hooks = [
        block.register_forward_hook(
            lambda block, args, kwargs, output: calls.append((args, kwargs, states_after(output))),
            with_kwargs=True,
        )
        for block in blocks_of(model)
    ]
    with hooked(hooks), torch.inference_mode():
        model.base_model(input_ids=text.to(model.device).unsqueeze(0), use_cache=False)
    return calls
