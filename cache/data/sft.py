"""Supervised data: rows of conversations, or of prompts and answers, from anywhere."""

from dataclasses import dataclass

from cache.data.conversations import Conversation, conversation_of
from cache.data.text_stream import open_rows, reason_of
from cache.errors import CacheError


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Which rows are read, and from where."""

    source: str
    """Hub id, local folder, or path or URL of a .jsonl, .json or .parquet file."""
    name: str | None = None
    """Config name on the hub."""
    data_dir: str | None = None
    """Folder inside the source."""
    streaming: bool = False
    """Read while downloading, instead of downloading and converting first."""
    validation_every: int | None = None
    """Hold out every so many rows of the one split as `validation`."""

    def __post_init__(self):
        if self.validation_every is not None and self.validation_every < 2:
            raise CacheError(f"validation_every is {self.validation_every}; it must be 2 or more.")

    def words(self, limit: int | None) -> str:
        """What an identity calls the dataset."""
        inside = [part for part in (self.name, self.data_dir) if part]
        words = [self.source + (f" ({', '.join(inside)})" if inside else "") + ", conversations"]
        if limit is not None:
            words.append(f"first {limit} rows")
        if self.validation_every is not None:
            words.append(f"every {self.validation_every}th row for validation")
        return ", ".join(words)


def read_conversations(sft: Sft, split: str, limit: int | None) -> list[Conversation]:
    """The rows of a split, numbered from 0 in their order.

    Raises:
        CacheError: the source cannot be read, a row has no known schema, or there is none.
    """
    where = f"{sft.source}, split {split!r}"
    rows = open_rows(
        sft.source, name=sft.name, data_dir=sft.data_dir, split=split, streaming=sft.streaming
    )
    found: list[Conversation] = []
    try:
        for number, row in enumerate(rows):
            if limit is not None and number >= limit:
                break
            found.append(conversation_of(row, number, f"{where}, row {number}"))
    except CacheError:
        raise
    except Exception as error:  # network, codecs and parsers raise many kinds
        raise CacheError(f"{where}: reading stopped: {reason_of(error)}") from error
    if not found:
        raise CacheError(f"{where} has no rows. Name another --split.")
    return found
