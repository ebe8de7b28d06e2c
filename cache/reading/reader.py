"""Reading a cache: the one door through which training and evaluation come in.

N rows, K cached entries, M tail-mass nodes.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.data.documents import ASSISTANT, BEGINS
from cache.errors import CacheError
from cache.reading.open_shards import OpenShards, UnpackedRows
from cache.reading.tokenizer import require_recorded_tokenizer
from cache.storage.identity import Identity
from cache.storage.layout import ShardLayout
from cache.storage.lengths import read_lengths
from cache.storage.manifest import Manifest, ShardRecord
from cache.storage.packing import to_tensors
from cache.storage.paths import TOKENIZER_DIR
from cache.storage.tail_file import load_codec
from cache.targets.fidelity import Fidelity
from cache.targets.rans import FrequencyTables
from cache.targets.row_codec import RowCodec
from cache.targets.soft_targets import SoftTargets


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedDocuments:
    """Documents end to end, with a row of soft targets for every token but each first one.

    A document of n tokens has n - 1 rows; row t is the teacher's distribution over token t + 1
    given tokens 0 to t.
    """

    task_ids: np.ndarray
    """(num_documents,) int64."""
    token_ids: np.ndarray
    """(num_tokens,) int64."""
    token_offsets: np.ndarray
    """(num_documents + 1,) int64: document i is token_ids[offsets[i] : offsets[i + 1]]."""
    prompt_lengths: np.ndarray
    """(num_documents,) int64: tokens of each document's prompt."""
    marks: np.ndarray
    """(num_tokens,) uint8, bits: 1, the assistant wrote the token (or it completes a prompt, or is
    a corpus' text); 2, it is the first of a text."""
    isolated: bool = False
    """Whether texts of one document have positions and attention of their own."""
    targets: SoftTargets
    """N = num_tokens - num_documents rows."""

    @property
    def by_assistant(self) -> np.ndarray:
        """(num_tokens,) bool: which tokens the assistant wrote."""
        return (self.marks & ASSISTANT) > 0

    @property
    def begins_text(self) -> np.ndarray:
        """(num_tokens,) bool: which tokens are the first of a text."""
        return (self.marks & BEGINS) > 0


class CacheReader:
    """A complete cache, opened for reading.

    Shards are opened when they are first needed and once a process, so a reader may be handed
    to worker processes, forked or spawned. Its methods may be called from several threads, one
    of which reads at a time. Nothing is written, no file is locked. Memory stays bounded however
    large the cache is: see `cache.reading.open_shards`, and 8 bytes a document of a split whose
    lengths were asked for.
    """

    def __init__(self, path: Path | str):
        """Open a cache directory.

        Raises:
            CacheError: it is incomplete, damaged or of an unknown format.
        """
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        self._layout = ShardLayout.of(self.identity)
        self._shards: dict[str, list[ShardRecord]] = {}
        for shard in self.manifest.plan.shards:
            self._shards.setdefault(shard.split, []).append(shard)
        self._first_documents = {
            split: np.array([shard.first_document for shard in shards])
            for split, shards in self._shards.items()
        }
        self._num_documents = {
            split: sum(shard.num_documents for shard in shards)
            for split, shards in self._shards.items()
        }
        self._lengths: dict[str, np.ndarray] = {}
        self._codec: RowCodec | None = None
        self._knows_tokenizer = False
        self._open_nothing()

    @property
    def identity(self) -> Identity:
        """Who made the cache and from what."""
        return self.manifest.identity

    @property
    def identity_hash(self) -> str:
        """Hash of the identity: equal for caches whose rows may be mixed."""
        return self.identity.sha256

    @property
    def vocab_size(self) -> int:
        """V: rows of the teacher's output head."""
        return self.identity.vocab_size

    @property
    def max_length(self) -> int:
        """No document is longer than this, in tokens."""
        return self.identity.max_length

    @property
    def created(self) -> dict[str, Any]:
        """Date, machine and device; `teacher_parameters`, `teacher_rows`, `teacher_seconds` too,
        unless the cache is older than those."""
        return self.manifest.created

    @property
    def tokenizer_path(self) -> Path:
        """Folder that `AutoTokenizer.from_pretrained` opens.

        Raises:
            CacheError: a file of it is missing, or not what was written.
        """
        if not self._knows_tokenizer:
            require_recorded_tokenizer(self.path, self.manifest)
            self._knows_tokenizer = True
        return self.path / TOKENIZER_DIR

    @property
    def splits(self) -> list[str]:
        """Splits in the order they were built."""
        return list(self._shards)

    def num_documents(self, split: str) -> int:
        """Documents of a split."""
        self._require_split(split)
        return self._num_documents[split]

    def document_lengths(self, split: str) -> np.ndarray:
        """(num_documents,) int64: tokens of each document of a split."""
        with self._own_lock():
            if split not in self._lengths:
                shards = self._require_split(split)
                self._lengths[split] = read_lengths(self.path, self.manifest, split, shards)
            return self._lengths[split]

    def document_blocks(self, split: str) -> np.ndarray:
        """(num_documents,) int64: the block of each document, in ascending order.

        The rows of a block stand together on disk. Whoever reads in an order in which few blocks
        take turns, at most `KEPT_BLOCKS`, has each of them unpacked once.
        """
        lengths, first_block, parts = self.document_lengths(split), 0, []
        for shard in self._require_split(split):
            stop = shard.first_document + shard.num_documents
            num_rows = lengths[shard.first_document : stop] - 1
            parts.append((num_rows.cumsum() - num_rows) // self.shards.block_rows + first_block)
            first_block = int(parts[-1][-1]) + 1
        return np.concatenate(parts)

    def read(self, split: str, indices: Sequence[int]) -> CachedDocuments:
        """Documents of a split, by index, in the order asked for.

        Raises:
            CacheError: no such split or document, or a damaged shard.
        """
        if not len(indices):
            raise CacheError("read needs at least one document index.")
        task_ids, prompt_lengths, tokens, marks, rows = [], [], [], [], []
        with self._own_lock():
            for index in indices:
                shard, document = self._locate(split, int(index))
                opened = self.shards.shard(shard)
                task_ids.append(opened.task_ids[document])
                prompt_lengths.append(opened.prompt_lengths[document])
                own = slice(*opened.offsets[document : document + 2])
                tokens.append(opened.token_ids[own])
                marks.append(opened.marks[own])
                rows += self.shards.rows(shard, *opened.rows_of(document))
            targets = self._decode(rows)
        return CachedDocuments(
            task_ids=np.array(task_ids),
            token_ids=np.concatenate(tokens, dtype=np.int64),
            token_offsets=np.concatenate([[0], np.cumsum([len(t) for t in tokens])]),
            prompt_lengths=np.array(prompt_lengths),
            marks=np.concatenate(marks),
            isolated=self.identity.texts.isolated,
            targets=targets,
        )

    def _tables(self) -> FrequencyTables | None:
        """Tables of the entropy-coded coefficients, where the tail has any."""
        return self._loaded_codec().tables if self.identity.targets.tail == "lowrank" else None

    def _loaded_codec(self) -> RowCodec:
        if self._codec is None:
            self._codec = load_codec(self.path, self.identity)
        return self._codec

    def read_rows(self, split: str, indices: Sequence[int], name: str) -> np.ndarray:
        """One dataset of the rows of some documents, as stored; for reports.

        Raises:
            CacheError: no such split, document or dataset, or a damaged shard.
        """
        if name not in self._layout.row_fields():
            raise CacheError(
                f"{self.path} has no dataset {name!r} (tail {self.identity.targets.tail})."
            )
        parts = []
        with self._own_lock():
            for index in indices:
                shard, document = self._locate(split, int(index))
                start, stop = self.shards.shard(shard).rows_of(document)
                if name in self._layout.target_fields():
                    parts += [rows[name] for rows in self.shards.rows(shard, start, stop)]
                else:
                    parts.append(self.shards.shard(shard).row_range(start, stop, (name,))[name])
        return np.concatenate(parts)

    def fidelity(self) -> tuple[Fidelity, ...]:
        """How true the stored targets are, as measured when they were written."""
        return self.manifest.fidelity

    def close(self) -> None:
        """Close every open shard and free the rows; a later read opens them again."""
        with self._own_lock():
            self.shards.close()

    def __enter__(self) -> "CacheReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "shards": None, "_codec": None, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_nothing()

    def _open_nothing(self) -> None:
        """Begin anew in this process: files and locks of another one are not ours."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self.shards = OpenShards(self.path, self.manifest, self._tables)
        """What is open and unpacked now."""

    def _own_lock(self) -> threading.RLock:
        if self._pid != os.getpid():  # forked since
            self._open_nothing()
        return self._lock

    def load_tail(self) -> None:
        """Read what the tails of all rows share now, and not with the first rows.

        Raises:
            CacheError: the file is missing or damaged.
        """
        with self._own_lock():
            self._loaded_codec()

    def _decode(self, parts: list[UnpackedRows]) -> SoftTargets:
        rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self._loaded_codec().decode(to_tensors(rows))

    def _require_split(self, split: str) -> list[ShardRecord]:
        if split not in self._shards:
            raise CacheError(
                f"The cache at {self.path} has no split {split!r}; it has "
                f"{', '.join(self._shards)}. Build it with --split {split}."
            )
        return self._shards[split]

    def _locate(self, split: str, index: int) -> tuple[ShardRecord, int]:
        shards = self._require_split(split)
        if not 0 <= index < self.num_documents(split):
            raise CacheError(
                f"Split {split!r} of {self.path} has documents 0 to "
                f"{self.num_documents(split) - 1}; {index} was asked for."
            )
        position = int(np.searchsorted(self._first_documents[split], index, side="right")) - 1
        return shards[position], index - shards[position].first_document
