"""The tokens of a corpus on disk, on their way from a stream to the teacher.

`corpus/<split>/shard-00000.npy` holds the int32 tokens of a shard to be; all but a split's last
document have exactly `max_length` tokens, so that nothing else needs to be kept of documents.
`corpus/state.json` says how far the stream was read, and is written after the shards it counts.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from cache.data.documents import ASSISTANT, BEGINS, Document
from cache.data.text_range import TEXTS, TextRange
from cache.errors import CacheError
from cache.machine.durable import atomic_path, read_sealed_json, write_sealed_json

SPOOL_DIR = "corpus"
STATE_NAME = "state.json"
_OWN_FILE = re.compile(r"(shard-\d+\.npy|state\.json)(\..+-\d+\.partial)?")
_DTYPE = np.dtype("<i4")
BEGINS_TEXT = 1 << 30
"""Bit of a spooled token that is the first of a text."""


@dataclass(kw_only=True)
class SpooledSplit:
    """What is known of a split so far."""

    num_tokens: int = 0
    """In files."""
    largest_id: int = 0
    sha256: str = ""
    """Chained over its documents; it does not depend on the size of shards."""
    pending: list[np.ndarray] = field(default_factory=list)
    """Tokens that fill no shard yet."""

    @property
    def num_pending(self) -> int:
        """Tokens that are not in a file."""
        return sum(len(ids) for ids in self.pending)


class Spool:
    """Tokens in, files of whole shards out."""

    def __init__(
        self,
        directory: Path,
        splits: Sequence[str],
        *,
        max_length: int,
        shard_tokens: int,
        options: Mapping[str, Any],
    ):
        """Go on with the spool in a directory, or begin one.

        Args:
            directory: `corpus` inside of a cache.
            splits: those that the spool will hold.
            max_length: tokens of a document.
            shard_tokens: tokens at which a shard is closed.
            options: what decides the tokens, to compare with those of an unfinished spool.

        Raises:
            CacheError: the spool was begun with other options, or is damaged.
        """
        self.directory, self.max_length = directory, max_length
        self.file_tokens = -(-shard_tokens // max_length) * max_length
        self.splits = {split: SpooledSplit() for split in splits}
        self.position: dict[str, Any] = {}
        """Where the caller's stream stands; {} at its beginning."""
        self.texts: dict[str, TextRange] = {}
        """Those read so far, by split of the corpus."""
        self.complete = False
        self._options = dict(options)
        if (directory / STATE_NAME).exists():
            self._load()

    def add(self, split: str, token_ids: np.ndarray) -> None:
        """Append tokens to a split."""
        self.splits[split].pending.append(token_ids.astype(_DTYPE))

    def save(self, position: Mapping[str, Any]) -> None:
        """Write the shards that are full, and if there are any, the state.

        Args:
            position: where the stream goes on after all tokens added so far.
        """
        self.position = dict(position)
        full = [name for name, s in self.splits.items() if s.num_pending >= self.file_tokens]
        for split in full:
            self._write_full(split)
        if full:
            self._write_state()

    def finish(self) -> None:
        """Write what is left, and that the spool is complete."""
        for split, spooled in self.splits.items():
            self._write_full(split)
            rest = np.concatenate([np.empty(0, _DTYPE), *spooled.pending])
            if len(rest) % self.max_length == 1:
                rest = rest[:-1]  # a document of one token has no row
            if len(rest):
                self._write_file(split, rest)
            spooled.pending = []
        self.position, self.complete = {}, True
        self._write_state()

    def _write_full(self, split: str) -> None:
        spooled = self.splits[split]
        tokens = np.concatenate([np.empty(0, _DTYPE), *spooled.pending])
        while len(tokens) >= self.file_tokens:
            self._write_file(split, tokens[: self.file_tokens])
            tokens = tokens[self.file_tokens :]
        spooled.pending = [tokens.copy()]

    def _write_file(self, split: str, tokens: np.ndarray) -> None:
        spooled = self.splits[split]
        path = file_path(self.directory, split, spooled.num_tokens // self.file_tokens)
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.save(file, tokens, allow_pickle=False)
        spooled.num_tokens += len(tokens)
        spooled.largest_id = max(spooled.largest_id, int((tokens & ~BEGINS_TEXT).max()))
        spooled.sha256 = chained_sha256(spooled.sha256, tokens & ~BEGINS_TEXT, self.max_length)

    def _write_state(self) -> None:
        splits = {
            name: {
                "num_tokens": spooled.num_tokens,
                "largest_id": spooled.largest_id,
                "sha256": spooled.sha256,
                "pending": base64.b64encode(
                    b"".join(p.tobytes() for p in spooled.pending)
                ).decode(),
            }
            for name, spooled in self.splits.items()
        }
        content = {
            "options": self._options,
            "position": self.position,
            "splits": splits,
            TEXTS: list(map(asdict, self.texts.values())),
            "complete": self.complete,
        }
        write_sealed_json(self.directory / STATE_NAME, content)

    def _load(self) -> None:
        content = read_sealed_json(self.directory / STATE_NAME)
        found, asked = content["options"], self._options
        differing = [name for name in asked if found.get(name) != asked[name]]
        if differing:
            lines = [f"  {n}: {found.get(n)!r} there, {asked[n]!r} asked for" for n in differing]
            raise CacheError(
                f"{self.directory} was begun with other options:\n"
                + "\n".join(lines)
                + "\nGive those again to go on, or another --out."
            )
        for name, state in content["splits"].items():
            pending = np.frombuffer(base64.b64decode(state.pop("pending")), dtype=_DTYPE)
            self.splits[name] = SpooledSplit(**state, pending=[pending])
        self.texts = {one["split"]: TextRange(**one) for one in content[TEXTS]}
        self.position, self.complete = content["position"], content["complete"]


class SpooledDocuments(Sequence[Document]):
    """Documents of a split, read from the spool as they are asked for; a slice is a list."""

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        num_tokens: int,
        max_length: int,
        file_tokens: int,
        isolated: bool = False,
    ):
        """Read nothing yet; arguments as in `Spool`, and the split's tokens."""
        self._isolated = isolated
        self._directory, self._split = directory, split
        self._num_tokens, self._max_length = num_tokens, max_length
        self._file_tokens = file_tokens

    def __len__(self) -> int:
        return -(-self._num_tokens // self._max_length)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index):
        """Raises CacheError where a file is missing or cut short."""
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._read(index % len(self))

    def _read(self, index: int) -> Document:
        file_number, first = divmod(index * self._max_length, self._file_tokens)
        path = file_path(self._directory, self._split, file_number)
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged header surfaces as many kinds
            raise CacheError(
                f"{path} cannot be read: {error}.\nDelete {self._directory} and give the same "
                "command again: the corpus is read anew."
            ) from error
        stored = tokens[first : first + self._max_length].astype(np.int64)
        marks = np.where(stored & BEGINS_TEXT, ASSISTANT | BEGINS, ASSISTANT).astype(np.uint8)
        return Document(
            task_id=index,
            token_ids=stored & ~BEGINS_TEXT,
            prompt_length=1,
            marks=marks,
            isolated=self._isolated,
        )


def spooled_texts(out: Path) -> list[TextRange]:
    """The texts that a cache's spool holds; none where there is no spool."""
    path = out / SPOOL_DIR / STATE_NAME
    contents = read_sealed_json(path)[TEXTS] if path.exists() else []
    return [TextRange(**content) for content in contents]


def remove_spool(out: Path) -> None:
    """Delete the spool of a cache, if there is one, and nothing that others keep beside it."""
    directory = out / SPOOL_DIR
    if not (directory / STATE_NAME).exists():
        return
    for path in (*directory.glob("*/shard-*.npy*"), *directory.glob(f"{STATE_NAME}*")):
        if _OWN_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    for folder in (*directory.glob("*/"), directory):
        with suppress(OSError):  # not empty
            folder.rmdir()


def file_path(directory: Path, split: str, number: int) -> Path:
    """The file of a shard's tokens."""
    return directory / split / f"shard-{number:05d}.npy"


def chained_sha256(before: str, tokens: np.ndarray, max_length: int) -> str:
    """Hex hash of a split's documents, given that of those before; "" at the beginning."""
    for first in range(0, len(tokens), max_length):
        document = np.ascontiguousarray(tokens[first : first + max_length], dtype=_DTYPE)
        before = hashlib.sha256(before.encode() + document.tobytes()).hexdigest()
    return before
