"""Any causal language model of transformers as a trunk and an output head.

Letters of shapes: B sequences, S positions, D width, V vocabulary.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from cache.teacher.logit_map import CAPS, DIVISORS, FACTORS
from distill.errors import DistillError

PROBE_TOKENS = 16
_plain: WeakSet[nn.Module] = WeakSet()
_isolating: WeakSet[nn.Module] = WeakSet()


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, of one that data parallelism may have wrapped.

    Raises:
        DistillError: it is neither.
    """
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    if not isinstance(inner, PreTrainedModel) or inner.get_output_embeddings() is None:
        raise DistillError(
            f"a student is a causal language model of transformers, alone or in "
            f"DistributedDataParallel, but this is {type(model).__name__}. Of a PeftModel, give "
            "what its get_base_model() returns."
        )
    return inner


def trunk_states(
    model: nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor | None
) -> torch.Tensor:
    """(B, S, D) final hidden states of ids (B, S), without the output head.

    No attention mask: padding is on the right and attention is causal, so no row can see it, and
    the fastest attention kernels take no mask. Where positions start again at 0, transformers
    masks what came before, so that packed documents do not see each other.

    Raises:
        DistillError: documents are packed, and the model does not keep them apart.
    """
    inner = unwrapped(model)
    trunk = inner.base_model
    if position_ids is not None:
        _require_isolation(inner, input_ids)
    inputs = _inputs(trunk, input_ids, position_ids)
    if model is inner:
        return trunk(**inputs).last_hidden_state
    return _states_of_parallel(model, inner, inputs)


def _states_of_parallel(
    model: nn.Module, inner: PreTrainedModel, inputs: dict[str, Any]
) -> torch.Tensor:
    """As `trunk_states`: data parallelism sums the gradients of what its own forward began."""
    seen: list[torch.Tensor] = []
    hook = inner.base_model.register_forward_hook(
        lambda trunk, given, outputs: seen.append(outputs.last_hidden_state)
    )
    try:
        model(**inputs, **({"logits_to_keep": 1} if _accepts(inner, "logits_to_keep") else {}))
    finally:
        hook.remove()
    if not seen:
        raise DistillError(
            f"{type(inner).__name__} does not call its trunk as a module, so its hidden states "
            "are not to be had in DistributedDataParallel. Train it in one process."
        )
    return seen[0]


@torch.no_grad()
def _require_isolation(model: PreTrainedModel, input_ids: torch.Tensor) -> None:
    """Raise DistillError, once a model, where packed documents see each other."""
    if model in _isolating:
        return
    trunk, own = model.base_model, input_ids[:1, : PROBE_TOKENS // 2]
    isolates = _accepts(trunk, "position_ids")
    if isolates:
        places = torch.arange(own.shape[1], device=own.device).unsqueeze(0)
        # In 16 bits, rounding is as large as what a document may see of another.
        with _evaluating(model), torch.autocast(own.device.type, enabled=False):
            alone = trunk(**_inputs(trunk, own, places)).last_hidden_state
            both = _inputs(trunk, torch.cat([own.flip(1), own], 1), torch.cat([places, places], 1))
            packed = trunk(**both).last_hidden_state[:, own.shape[1] :]
        tolerance = 1e-2 if alone.dtype in (torch.bfloat16, torch.float16) else 1e-4
        difference = (packed - alone).abs().max()
        isolates = bool(difference <= tolerance * alone.abs().max())
    if not isolates:
        raise DistillError(
            f"{type(model).__name__} does not keep packed documents apart where positions start "
            "again. Use batching: grouped, or another student."
        )
    _isolating.add(model)


def plain_head(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """(V, D) weight of a head whose product with a hidden state is the model's logits.

    Configuration and one forward pass over a few tokens are looked at, once a model.

    Args:
        input_ids: (B, S) of a batch: what the model is asked with.

    Raises:
        DistillError: the head has a bias, or logits are scaled or soft-capped after it.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    if inner not in _plain:
        _require_plain(inner, head, input_ids[:1, :PROBE_TOKENS])
        _plain.add(inner)
    return head.weight


@torch.no_grad()
def _require_plain(model: PreTrainedModel, head: nn.Module, input_ids: torch.Tensor) -> None:
    name = type(model).__name__
    text = model.config.get_text_config()
    found = {setting: getattr(text, setting, None) for setting in (*CAPS, *FACTORS, *DIVISORS)}
    scaled = [f"{key}={value}" for key, value in found.items() if value not in (None, 1, 1.0)]
    if getattr(head, "bias", None) is not None:
        scaled.append("a bias in the output head")
    if scaled:
        raise DistillError(
            f"{name} has {', '.join(scaled)}: its logits are not the product of head and hidden "
            "state, which the fused loss computes. Take another student."
        )
    with _evaluating(model):
        expected = model(input_ids=input_ids).logits.float()
        logits = head(trunk_states(model, input_ids, None)).float()
    scale = float(expected.abs().max())
    if expected.shape != logits.shape or not torch.allclose(
        logits, expected, rtol=1e-5, atol=1e-6 * scale, equal_nan=True
    ):
        raise DistillError(
            f"{name} changes its logits after the output head, so the fused loss would be "
            "another model's. Take another student."
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout for the block; every part is then as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _inputs(
    trunk: nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor | None
) -> dict[str, Any]:
    """Arguments of a trunk; with a cache of keys and values it would not look at positions."""
    inputs: dict[str, Any] = {"input_ids": input_ids}
    if _accepts(trunk, "use_cache"):
        inputs["use_cache"] = False
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    return inputs


def _accepts(module: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters
