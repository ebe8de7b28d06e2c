"""The teacher: loaded once, split into a trunk and an output head.

B batch, S positions, D width, V vocabulary, N rows.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from cache.errors import CacheError
from cache.machine.precision import dtype_name
from cache.targets.row_codec import OutputHead
from cache.teacher.configuration import configuration_of
from cache.teacher.head import head_rows, head_width, linear_of
from cache.teacher.logit_map import apply_logit_map, logit_map_of


class Teacher:
    """A causal LM as two steps: hidden states of a batch, then logits of any slice of rows.

    Going through the head in slices is what keeps (B, S, V) from ever existing.
    """

    def __init__(self, model, *, check: bool = True):
        """Wrap a loaded model.

        Raises:
            CacheError: the model has no separate trunk and output head, or changes its logits
                after the head in a way that its configuration does not tell.
        """
        head = model.get_output_embeddings()
        trunk = model.base_model
        if trunk is model:  # Llama 4 names another prefix than its trunk has
            trunk = getattr(model, "model", model)
        if head is None or trunk is model:
            raise CacheError(
                f"{type(model).__name__} has no output head separate from its trunk; "
                "use a causal language model (AutoModelForCausalLM)."
            )
        self.model, self.head, self.trunk = model, head, trunk
        self.vocab_size, self.width = head_rows(head), head_width(head)
        self.logit_map = logit_map_of(model)
        """What becomes of the head's logits: scaled, soft-capped, or nothing."""
        self.notes: tuple[str, ...] = ()
        """What whoever reads the cache's fidelity should know of it."""
        self.stamp = ""
        """Of the files that it was loaded from; see `cache.teacher.stamp`."""
        self._options: dict[str, Any] = (
            {"use_cache": False} if _accepts(trunk.forward, "use_cache") else {}
        )
        if check:
            self._require_it_runs()

    def _require_it_runs(self) -> None:
        """Raise CacheError where the model cannot be run, or its logits are not its head's."""
        try:
            self.require_own_logits(torch.arange(min(8, self.vocab_size)).unsqueeze(0))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CacheError):
                raise
            raise CacheError(
                f"{type(self.model).__name__} cannot be run on a few tokens in "
                f"{dtype_name(self.head.weight.dtype)}: {type(error).__name__}: {error}\n"
                "Try --dtype fp32, or take another teacher."
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the trunk takes its input ids."""
        return self.model.get_input_embeddings().weight.device

    @property
    def num_parameters(self) -> int:
        """Weights, a head tied to the embedding counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def max_positions(self) -> int | None:
        """Longest input of the model, or None where its configuration does not say."""
        return max_positions_of(self.model)

    @torch.inference_mode()
    def hidden(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Final hidden states (B, S, D) of right-padded ids (B, S).

        No attention mask is passed: under a causal mask, what stands right of a position
        cannot change it, so padding is harmless and the fast attention path is taken.

        Args:
            position_ids: (B, S) where texts are isolated: they start again at 0 in each of them,
                by which transformers masks what came before.

        Raises:
            CacheError: the trunk takes no positions.
        """
        options = dict(self._options)
        if position_ids is not None:
            if not _accepts(self.trunk.forward, "position_ids"):
                raise CacheError(
                    f"{type(self.model).__name__} takes no positions, so it cannot keep packed "
                    "texts apart. Leave --isolate out."
                )
            options["position_ids"] = position_ids.to(self.device)
        return self.trunk(input_ids=input_ids.to(self.device), **options).last_hidden_state

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V), in the model's dtype, of hidden states (N, D)."""
        return apply_logit_map(self.head(hidden.to(self.head.weight.device)), self.logit_map)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over names, dtypes, shapes and bytes of all parameters and buffers saved.

        Taken once: a teacher's weights do not change.
        """
        return state_sha256(_materialised_state(self.model))

    @property
    def identity_fields(self) -> dict[str, Any]:
        """What a cache's identity says of it, by field."""
        return {
            "teacher_sha256": self.weights_sha256,
            "vocab_size": self.vocab_size,
            "logits": self.logit_map,
            "configuration": configuration_of(self.model),
        }

    @torch.inference_mode()
    def require_own_logits(self, input_ids: torch.Tensor) -> None:
        """Raise CacheError unless `logits` of `hidden` are what the whole model says of (1, S) ids.

        Both are the same products of the same shapes, so they agree to the last bits.
        """
        expected = self.model(input_ids=input_ids.to(self.device), **self._options).logits[0]
        found = self.logits(self.hidden(input_ids)[0]).float()
        expected = expected.float().to(found.device)
        difference = (found - expected).abs().max()
        scale = expected.abs().max()
        exact = self.head.weight.dtype not in (torch.bfloat16, torch.float16)
        if not torch.isfinite(expected).all() or difference <= (1e-4 if exact else 1e-2) * scale:
            return  # NaN weights are reported with the document they spoil
        raise CacheError(
            f"{type(self.model).__name__} changes its logits after the output head (by up to "
            f"{difference:.3g}, of {scale:.3g}) in a way that is not known here. "
            "Soft targets taken before that would be wrong, so this teacher is refused."
        )


def state_sha256(state: dict[str, torch.Tensor]) -> str:
    """Hash over names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def max_positions_of(model) -> int | None:
    """Longest input of a model, or None where its configuration does not say."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len"):  # MPT has the second
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def _accepts(function: Callable, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _materialised_state(model) -> dict[str, torch.Tensor]:
    """The state dict, with the weights that device_map has offloaded brought back."""
    if any(parameter.is_meta for parameter in model.parameters()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        return get_state_dict_offloaded_model(model)
    return model.state_dict()


def head_of(model) -> OutputHead:
    """The output head of a loaded model, fp32, with its logits' scale in the weights.

    Raises:
        CacheError: it is not linear.
    """
    weight, bias = linear_of(model.get_output_embeddings())
    found = logit_map_of(model)
    if bias is None:
        bias = torch.zeros(len(weight), device=weight.device)
    return OutputHead(
        weight=weight.float() * found.scale,
        bias=bias.float() * found.scale,
        softcap=found.softcap,
    )
