"""The teacher: loaded once, split into a trunk and an output head.

B batch, S positions, D width, V vocabulary, N rows.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import cached_property

import torch

from cache.errors import CacheError
from cache.targets.row_codec import OutputHead


class Teacher:
    """A causal LM as two steps: hidden states of a batch, then logits of any slice of rows.

    Going through the head in slices is what keeps (B, S, V) from ever existing.
    """

    def __init__(self, model, *, check: bool = True):
        """Wrap a loaded model.

        Raises:
            CacheError: the model has no separate trunk and output head, or its logits are not
                simply head(hidden), as with soft-capped or scaled logits.
        """
        head = model.get_output_embeddings()
        trunk = model.base_model
        if head is None or trunk is model:
            raise CacheError(
                f"{type(model).__name__} has no output head separate from its trunk; "
                "use a causal language model (AutoModelForCausalLM)."
            )
        self.model, self.head, self.trunk = model, head, trunk
        self.vocab_size: int = head.weight.shape[0]
        self._options = {"use_cache": False} if _accepts(trunk.forward, "use_cache") else {}
        if check:
            self._require_plain_head()

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
        return getattr(self.model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Final hidden states (B, S, D) of right-padded ids (B, S).

        No attention mask is passed: under a causal mask, what stands right of a position
        cannot change it, so padding is harmless and the fast attention path is taken.
        """
        return self.trunk(input_ids=input_ids.to(self.device), **self._options).last_hidden_state

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V), in the model's dtype, of hidden states (N, D)."""
        return self.head(hidden.to(self.head.weight.device))

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over names, dtypes, shapes and bytes of all parameters and buffers saved.

        Taken once: a teacher's weights do not change.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(_materialised_state(self.model).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def _require_plain_head(self) -> None:
        ids = torch.arange(min(8, self.vocab_size)).unsqueeze(0)
        expected = self.model(input_ids=ids.to(self.device), **self._options).logits[0].float()
        found = self.logits(self.hidden(ids)[0]).float().to(expected.device)
        difference = (found - expected).abs().max()
        scale = expected.abs().max()
        if not torch.isfinite(expected).all() or difference <= 1e-2 * scale + 1e-4:
            return  # NaN weights are reported with the document they spoil
        raise CacheError(
            f"{type(self.model).__name__} changes its logits after the output head (by up to "
            f"{difference:.3g}, of {scale:.3g}): scaling or soft-capping. "
            "Soft targets taken before that would be wrong, so this teacher is refused."
        )


def _accepts(function: Callable, parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _materialised_state(model) -> dict[str, torch.Tensor]:
    """The state dict, with the weights that device_map has offloaded brought back."""
    if any(parameter.is_meta for parameter in model.parameters()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        return get_state_dict_offloaded_model(model)
    return model.state_dict()


def head_of(model) -> OutputHead:
    """The output head of a loaded model, fp32."""
    head = model.get_output_embeddings()
    weight = head.weight.detach().float()
    bias = getattr(head, "bias", None)
    zeros = torch.zeros(len(weight), device=weight.device)
    return OutputHead(weight=weight, bias=zeros if bias is None else bias.detach().float())
