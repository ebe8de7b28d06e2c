"""What a teacher's configuration says of its logits, beside its weights."""

import math
from typing import Any

NAMES = frozenset({
    "_name_or_path", "architectures", "auto_map", "base_model_name_or_path", "bos_token_id",
    "dtype", "eos_token_id", "id2label", "label2id", "output_attentions", "output_hidden_states",
    "pad_token_id", "problem_type", "return_dict", "revision", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
"""Settings that change no logit: names, paths, ids for generation, forms of the output; and those
that an identity has a field for: precision and library."""


def configuration_of(model) -> dict[str, Any]:
    """All settings of a loaded model but `NAMES`, as JSON has them.

    Quantisation is among them (`quantization_config`), and so are adapters that stand beside the
    weights, whose scale is no weight.
    """
    found = _plain(model.config.to_dict())
    adapters = getattr(model, "peft_config", None)
    if adapters:
        found["adapters"] = {str(k): _plain(config.to_dict()) for k, config in adapters.items()}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in NAMES}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
