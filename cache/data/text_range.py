"""Which texts of a corpus a cache holds, so that none is added twice."""

from collections.abc import Sequence
from dataclasses import dataclass

TEXTS = "texts"
"""In `created`: the ranges of texts that were read."""


@dataclass(frozen=True, kw_only=True)
class TextRange:
    """Consecutive texts of a split, counted from 0."""

    stream: str
    """`Corpus.stream_words`."""
    split: str
    """Of the datasets; texts that were held out of it count too."""
    first: int
    end: int | None
    """One past the last; None: as far as they go."""

    def overlaps(self, other: "TextRange") -> bool:
        """Whether a text is in both."""
        if (self.stream, self.split) != (other.stream, other.split):
            return False
        ends_before = self.end is not None and self.end <= other.first
        begins_after = other.end is not None and other.end <= self.first
        return not (ends_before or begins_after)

    def words(self) -> str:
        """In a few words, for people."""
        return f"texts {self.first} to {self.end} of {self.split}"


def first_overlap(there: Sequence[TextRange], new: Sequence[TextRange]) -> TextRange | None:
    """The first range that is there of which a new one holds a text."""
    return next((one for one in there if any(one.overlaps(other) for other in new)), None)
