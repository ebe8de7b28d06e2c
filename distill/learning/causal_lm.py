"""Any causal language model of transformers as a trunk and an output head.

Letters of shapes: B sequences, S positions, D width, V vocabulary.
"""

import inspect
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from distill.errors import DistillError

SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings with which a model changes its logits after the head: Gemma 2, Cohere, Granite,
Falcon-H1."""
PROBE_TOKENS = 16
_plain: WeakSet[nn.Module] = WeakSet()


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
        DistillError: documents are packed, and the model takes no positions.
    """
    inner = unwrapped(model)
    trunk = inner.base_model
    inputs: dict[str, Any] = {"input_ids": input_ids}
    if _accepts(trunk, "use_cache"):
        inputs["use_cache"] = False
    if position_ids is not None:
        if not _accepts(trunk, "position_ids"):
            raise DistillError(
                f"{type(inner).__name__} takes no position_ids, so packed documents would see each "
                "other. Use batching: grouped."
            )
        inputs["position_ids"] = position_ids
    if model is inner:
        return trunk(**inputs).last_hidden_state
    # Data parallelism waits for gradients only of what its own forward began.
    if _accepts(inner, "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    return _watched(trunk, lambda: model(**inputs))[0]


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
    found = {setting: getattr(text, setting, None) for setting in SCALED_LOGITS}
    scaled = [f"{key}={value}" for key, value in found.items() if value not in (None, 1, 1.0)]
    if getattr(head, "bias", None) is not None:
        scaled.append("a bias in the output head")
    if scaled:
        raise DistillError(
            f"{name} has {', '.join(scaled)}: its logits are not the product of head and hidden "
            "state, which the fused loss computes. Take another student."
        )
    states, outputs = _watched(model.base_model, lambda: model(input_ids=input_ids))
    expected, logits = outputs.logits.float(), head(states).float()
    scale = float(expected.abs().max())
    if expected.shape != logits.shape or not torch.allclose(
        logits, expected, rtol=1e-5, atol=1e-6 * scale, equal_nan=True
    ):
        raise DistillError(
            f"{name} changes its logits after the output head, so the fused loss would be "
            "another model's. Take another student."
        )


def _watched(trunk: nn.Module, call: Any) -> tuple[torch.Tensor, Any]:
    """The trunk's final hidden states in a call, and what the call returns."""
    seen: list[torch.Tensor] = []
    hook = trunk.register_forward_hook(
        lambda module, inputs, outputs: seen.append(outputs.last_hidden_state)
    )
    try:
        returned = call()
    finally:
        hook.remove()
    return seen[0], returned


def _accepts(module: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters
