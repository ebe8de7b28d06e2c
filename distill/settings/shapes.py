"""Sizes of students by name. Imports nothing heavy, so that recipes can be checked early."""

import re
from dataclasses import dataclass

from distill.errors import DistillError


@dataclass(frozen=True, kw_only=True)
class StudentShape:
    """How deep and how wide a GPT-2-shaped student is."""

    num_layers: int
    """Transformer blocks."""
    width: int
    """Width of the hidden states; the feed-forward layers are four times as wide."""
    num_heads: int
    """Attention heads; they divide the width."""

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

    def num_parameters(self, vocab_size: int, num_positions: int) -> int:
        """Weights of a GPT-2 of this shape whose output head is its input embedding."""
        width = self.width
        block = 12 * width * width + 13 * width  # attention 4 D² + 4 D, the rest 8 D² + 9 D
        return (vocab_size + num_positions) * width + self.num_layers * block + 2 * width


PRESETS = {
    "44m": StudentShape(num_layers=6, width=512, num_heads=8),
    "202m": StudentShape(num_layers=12, width=1024, num_heads=16),
    "tiny": StudentShape(num_layers=2, width=64, num_heads=2),
}
"""44,343,296 and 202,012,672 parameters with StarCoder2's 49,152 tokens; `tiny` is for trials."""


def parse_shape(student: str) -> StudentShape:
    """The shape a recipe's `student` stands for: a preset, or `LAYERSxWIDTHxHEADS`.

    Raises:
        DistillError: neither a preset nor three numbers, or numbers that make no model.
    """
    if student in PRESETS:
        return PRESETS[student]
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", student)
    if match is None:
        raise DistillError(
            f"unknown student {student!r}; known are {', '.join(PRESETS)}. "
            "Use one of them, or write LAYERSxWIDTHxHEADS, for example 6x512x8."
        )
    num_layers, width, num_heads = (int(number) for number in match.groups())
    return StudentShape(num_layers=num_layers, width=width, num_heads=num_heads)
