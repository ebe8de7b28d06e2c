"""What a model does to its logits after the output head, read from its configuration."""

import torch

from cache.targets.format import LogitMap

FACTORS = ("logit_scale", "lm_head_multiplier")
"""Settings by which logits are multiplied: Cohere, Falcon-H1."""
DIVISORS = ("logits_scaling",)
"""Settings by which they are divided: Granite."""
CAPS = ("final_logit_softcapping",)
"""Settings that cap them softly: Gemma 2."""


def logit_map_of(model) -> LogitMap:
    """The map of a loaded model; whether it is all of it, `require_understood` finds out."""
    config = model.config.get_text_config()
    scale, softcap = 1.0, None
    for name in FACTORS:
        scale *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    for name in CAPS:
        softcap = getattr(config, name, None) or softcap
    return LogitMap(scale=scale, softcap=softcap)


def apply_logit_map(logits: torch.Tensor, found: LogitMap) -> torch.Tensor:
    """The model's logits from those of its head, in their dtype."""
    if found.scale != 1.0:
        logits = logits * found.scale
    if found.softcap is not None:
        logits = torch.tanh(logits / found.softcap) * found.softcap
    return logits
