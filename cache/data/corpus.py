"""Options of a corpus: any texts, packed into documents. Imports nothing heavy."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cache.errors import CacheError

TEMPLATE = "text"
"""What an identity names as the template of a corpus: its texts as they stand."""
LONG_DOCUMENTS = "pack"
"""What an identity says of a corpus' long texts: they go on in the next document."""
VALIDATION = "validation"
_TAKEN = (
    "corpus", "extension", "lengths", "tokenizer",
    "manifest.json", "plan.json", "README.md", "tail.safetensors",
)  # fmt: skip
"""Folders and files of a cache that are no splits."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Which texts are read, from where, and how many."""

    sources: tuple[str, ...]
    """Hub ids, local folders, or paths or URLs of .jsonl, .json, .parquet, .csv or .txt files."""
    text_field: str
    """Column that holds the text."""
    weights: tuple[float, ...] = ()
    """Share of the texts drawn from each source; empty draws evenly."""
    names: tuple[str, ...] = ()
    """Config name of each source on the hub; one holds for all."""
    data_dirs: tuple[str, ...] = ()
    """Folder inside each source; one holds for all."""
    streaming: bool = False
    """Read while downloading, instead of downloading and converting first."""
    skip: int = 0
    """Texts of each split that are passed over first."""
    max_tokens: int | None = None
    """Tokens at which the stream of a split ends, what is held out included."""
    validation_every: int | None = None
    """Hold out every so many texts of the one split as `validation`."""

    def __post_init__(self):
        num = len(self.sources)
        require_a_weight_each(self.sources, self.weights)
        if any(not (w > 0 and math.isfinite(w)) for w in self.weights):
            raise CacheError(f"Weights are {self.weights}; each must be above 0.")
        for option, values in (("dataset-config", self.names), ("data-dir", self.data_dirs)):
            if len(values) not in (0, 1, num):
                raise CacheError(
                    f"There are {num} datasets and {len(values)} of --{option}; give it once for "
                    "all, or once for each --dataset, in their order."
                )
        parts = {(s, self.name(i), self.data_dir(i)) for i, s in enumerate(self.sources)}
        if not num or len(parts) != num:
            raise CacheError(f"The corpus' datasets are {self.sources}; name each part once.")
        if self.skip < 0:
            raise CacheError(f"skip is {self.skip}; it must be 0 or more.")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise CacheError(f"max_tokens is {self.max_tokens}; it must be 2 or more.")
        if self.validation_every is not None and self.validation_every < 2:
            raise CacheError(f"validation_every is {self.validation_every}; it must be 2 or more.")

    @property
    def probabilities(self) -> list[float]:
        """The weights, summing to 1."""
        weights = self.weights or (1.0,) * len(self.sources)
        return [weight / sum(weights) for weight in weights]

    def name(self, index: int) -> str | None:
        """Config name of a source."""
        return _of(self.names, index)

    def data_dir(self, index: int) -> str | None:
        """Folder inside a source."""
        return _of(self.data_dirs, index)

    def require_splits(self, splits: tuple[str, ...]) -> None:
        """Raise CacheError where splits cannot name folders, or nothing can be held out."""
        require_split_names(splits)
        require_held_out(splits, self.validation_every)

    @property
    def stream_words(self) -> str:
        """All that decides the texts and their order, in a line, but not how many are read."""
        sources = []
        for index, source in enumerate(self.sources):
            inside = [part for part in (self.name(index), self.data_dir(index)) if part]
            source += f" ({', '.join(inside)})" if inside else ""
            share = f"{self.probabilities[index]:.4g} " if len(self.sources) > 1 else ""
            sources.append(share + source)
        return f"{' + '.join(sources)}, field {self.text_field}"

    def words(self, limit: int | None) -> str:
        """All that decides which texts are read, in a line: what an identity calls the dataset."""
        words = [self.stream_words]
        if self.skip:
            words.append(f"after {self.skip} texts")
        if limit is not None:
            words.append(f"first {limit} texts")
        if self.max_tokens is not None:
            words.append(f"first {self.max_tokens} tokens")
        if self.validation_every is not None:
            words.append(f"every {self.validation_every}th text for validation")
        return ", ".join(words)


def is_split_name(split: str) -> bool:
    """Whether a split can name a folder of a cache."""
    return re.fullmatch(r"\w[\w.-]{0,99}", split) is not None and split not in _TAKEN


def require_a_weight_each(sources: Sequence[str], weights: Sequence[float]) -> None:
    """Raise CacheError where there are weights, but not one for each source."""
    if weights and len(weights) != len(sources):
        raise CacheError(
            f"There are {len(sources)} datasets and {len(weights)} weights; give --weight once "
            "for each --dataset, in their order, or not at all."
        )


def require_split_names(splits: tuple[str, ...]) -> None:
    """Raise CacheError where splits cannot name folders of a cache."""
    for split in splits:
        if not is_split_name(split):
            raise CacheError(
                f"The split {split[:200]!r} cannot name a folder of the cache; a split is up to "
                f"100 letters, digits, '_', '-' and '.', and not {', '.join(_TAKEN)}."
            )


def require_held_out(splits: tuple[str, ...], validation_every: int | None) -> None:
    """Raise CacheError where what is held out has no place, or comes from no one split."""
    if validation_every is not None and (len(splits) != 1 or VALIDATION in splits):
        raise CacheError(
            f"--validation-every holds texts out of one split, but the splits are "
            f"{', '.join(splits)}. Give one --split other than {VALIDATION}, or leave it out."
        )


def _of(values: tuple[str, ...], index: int) -> str | None:
    return values[index % len(values)] if values else None
