"""What a recipe's `student` stands for: a size by name or number, or a model that is there.

Imports nothing heavy, so that recipes can be checked early.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError

FAMILIES = ("gpt2", "llama")
"""What blocks are made of. `llama`: RMSNorm, SwiGLU and rotary positions (Touvron et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """How deep and how wide a student with random weights is."""

    num_layers: int
    """Transformer blocks."""
    width: int
    """Width of the hidden states."""
    num_heads: int
    """Attention heads; they divide the width."""
    family: str = "gpt2"
    """One of `FAMILIES`."""
    num_kv_heads: int | None = None
    """Heads of keys and values, of `llama`; they divide the heads. None: as many as heads."""

    def __post_init__(self) -> None:
        if min(self.num_layers, self.width, self.num_heads) < 1:
            raise DistillError(
                f"student has {self.num_layers} layers, width {self.width} and {self.num_heads} "
                "heads; each must be at least 1. Change `student` in the recipe."
            )
        if self.width % self.num_heads:
            raise DistillError(
                f"student width {self.width} is not divisible by its {self.num_heads} heads. "
                f"Use a width that is a multiple of {self.num_heads}, or other heads."
            )
        if self.num_kv_heads is not None and (
            self.family != "llama" or not self.num_kv_heads or self.num_heads % self.num_kv_heads
        ):
            raise DistillError(
                f"student has {self.num_kv_heads} heads of keys and values: only llama has them "
                f"apart, and they must divide its {self.num_heads} heads."
            )

    @property
    def feed_forward_width(self) -> int:
        """Four times the width; 8/3 of it, rounded up to 64, where a gate is a third matrix."""
        if self.family == "gpt2":
            return 4 * self.width
        return -(-8 * self.width // (3 * 64)) * 64

    def num_parameters(self, vocab_size: int, num_positions: int) -> int:
        """Weights of a model of this shape whose output head is its input embedding."""
        width = self.width
        if self.family == "llama":
            shared = width * (self.num_kv_heads or self.num_heads) // self.num_heads
            attention = 2 * width * width + 2 * width * shared
            block = attention + 3 * width * self.feed_forward_width + 2 * width
            return vocab_size * width + self.num_layers * block + width
        block = 12 * width * width + 13 * width  # attention 4 D² + 4 D, the rest 8 D² + 9 D
        return (vocab_size + num_positions) * width + self.num_layers * block + 2 * width


PRESETS = {
    "44m": StudentShape(num_layers=6, width=512, num_heads=8),
    "202m": StudentShape(num_layers=12, width=1024, num_heads=16),
    "tiny": StudentShape(num_layers=2, width=64, num_heads=2),
}
"""44,343,296 and 202,012,672 parameters with StarCoder2's 49,152 tokens; `tiny` is for trials."""


def names_model(student: str) -> bool:
    """Whether a recipe's `student` is a folder or a hub id, not a shape."""
    return "/" in student or Path(student).is_dir()


def parse_shape(student: str) -> StudentShape:
    """The shape a recipe's `student` stands for.

    Args:
        student: a preset, or `LAYERSxWIDTHxHEADS`, or `FAMILY:LAYERSxWIDTHxHEADS`, where `llama`
            may end in `xKEY_VALUE_HEADS`.

    Raises:
        DistillError: none of these, or numbers that make no model.
    """
    if student in PRESETS:
        return PRESETS[student]
    match = re.fullmatch(r"(?:(\w+):)?(\d+)x(\d+)x(\d+)(?:x(\d+))?", student)
    if match is None or (match[1] or "gpt2") not in FAMILIES:
        raise DistillError(
            f"unknown student {student!r}; known are {', '.join(PRESETS)}. Use one of them, or "
            "write LAYERSxWIDTHxHEADS, for example 6x512x8 or llama:6x512x8, or name a folder or "
            "a hub id (OWNER/NAME) of a causal language model."
        )
    num_layers, width, num_heads = (int(number) for number in match.groups()[1:4])
    return StudentShape(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        family=match[1] or "gpt2",
        num_kv_heads=int(match[5]) if match[5] else None,
    )
