"""Reading a cache: the one door through which training and evaluation come in.

N rows, K cached entries, M tail-mass nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CacheError
from cache.fidelity import Fidelity
from cache.identity import Identity
from cache.layout import ShardLayout
from cache.manifest import TOKENIZER_DIR, Manifest, ShardPlan
from cache.open_shard import OpenShard
from cache.packing import to_tensors
from cache.rans import FrequencyTables
from cache.row_codec import RowCodec
from cache.soft_targets import SoftTargets
from cache.tail_file import load_codec


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
    targets: SoftTargets
    """N = num_tokens - num_documents rows."""


class CacheReader:
    """A complete cache, opened for reading.

    Shards are opened when they are first needed and once a process, so a reader may be handed
    to worker processes. Nothing is written, no lock is taken.
    """

    def __init__(self, path: Path | str):
        """Open a cache directory.

        Raises:
            CacheError: it is incomplete, damaged or of an unknown format.
        """
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        self._layout = ShardLayout.of(self.identity)
        self._shards: dict[str, list[ShardPlan]] = {}
        for shard in self.manifest.plan.shards:
            self._shards.setdefault(shard.split, []).append(shard)
        self._sizes = {file.path: file.num_bytes for file in self.manifest.files}
        self._first_documents = {
            split: np.array([shard.first_document for shard in shards])
            for split, shards in self._shards.items()
        }
        self._open: dict[str, OpenShard] = {}
        self._codec: RowCodec | None = None

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
        """Folder that `AutoTokenizer.from_pretrained` opens."""
        return self.path / TOKENIZER_DIR

    @property
    def splits(self) -> list[str]:
        """Splits in the order they were built."""
        return list(self._shards)

    def num_documents(self, split: str) -> int:
        """Documents of a split."""
        return sum(shard.num_documents for shard in self._require_split(split))

    def document_lengths(self, split: str) -> np.ndarray:
        """(num_documents,) int64: tokens of each document of a split."""
        shards = [self._shard(shard) for shard in self._require_split(split)]
        return np.concatenate([np.diff(shard.offsets) for shard in shards])

    def read(self, split: str, indices: Sequence[int]) -> CachedDocuments:
        """Documents of a split, by index, in the order asked for.

        Raises:
            CacheError: no such split or document, or a damaged shard.
        """
        if not len(indices):
            raise CacheError("read needs at least one document index.")
        places = [self._locate(split, int(index)) for index in indices]
        tokens = [shard.token_ids[shard.offsets[i] : shard.offsets[i + 1]] for shard, i in places]
        return CachedDocuments(
            task_ids=np.array([shard.task_ids[i] for shard, i in places]),
            token_ids=np.concatenate(tokens),
            token_offsets=np.concatenate([[0], np.cumsum([len(t) for t in tokens])]),
            prompt_lengths=np.array([shard.prompt_lengths[i] for shard, i in places]),
            targets=self._read_targets(places),
        )

    @property
    def _tables(self) -> FrequencyTables | None:
        """Tables of the entropy-coded coefficients, where the tail has any."""
        if self.identity.targets.tail != "lowrank":
            return None
        if self._codec is None:
            self._codec = load_codec(self.path, self.identity)
        return self._codec.tables

    def read_rows(self, split: str, indices: Sequence[int], name: str) -> np.ndarray:
        """One dataset of the rows of some documents, as stored; for reports.

        Raises:
            CacheError: no such split, document or dataset, or a damaged shard.
        """
        if name not in self._layout.row_fields():
            raise CacheError(
                f"{self.path} has no dataset {name!r} (tail {self.identity.targets.tail})."
            )
        places = [self._locate(split, int(index)) for index in indices]
        return np.concatenate([shard.rows(i)[name] for shard, i in places])

    def fidelity(self) -> tuple[Fidelity, ...]:
        """How true the stored targets are, as measured when they were written."""
        return self.manifest.fidelity

    def close(self) -> None:
        """Close every open shard; a later read opens them again."""
        for shard in self._open.values():
            shard.file.close()
        self._open.clear()

    def __enter__(self) -> "CacheReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}, "_codec": None}

    def _read_targets(self, places: list[tuple[OpenShard, int]]) -> SoftTargets:
        if self._codec is None:
            self._codec = load_codec(self.path, self.identity)
        documents = [shard.rows(i) for shard, i in places]
        rows = {name: np.concatenate([d[name] for d in documents]) for name in documents[0]}
        for name in ("topk_ids", "tail_ids"):
            if name in rows and int(rows[name].max()) >= self.vocab_size:
                raise CacheError(f"{self.path}: {name} beyond the vocabulary of {self.vocab_size}")
        return self._codec.decode(to_tensors(rows))

    def _require_split(self, split: str) -> list[ShardPlan]:
        if split not in self._shards:
            raise CacheError(
                f"The cache at {self.path} has no split {split!r}; it has "
                f"{', '.join(self._shards)}. Build it with --split {split}."
            )
        return self._shards[split]

    def _locate(self, split: str, index: int) -> tuple[OpenShard, int]:
        shards = self._require_split(split)
        if not 0 <= index < self.num_documents(split):
            raise CacheError(
                f"Split {split!r} of {self.path} has documents 0 to "
                f"{self.num_documents(split) - 1}; {index} was asked for."
            )
        position = int(np.searchsorted(self._first_documents[split], index, side="right")) - 1
        shard = shards[position]
        return self._shard(shard), index - shard.first_document

    def _shard(self, shard: ShardPlan) -> OpenShard:
        if shard.path not in self._open:
            path = self.path / shard.path
            if path.is_file() and path.stat().st_size != self._sizes.get(shard.path):
                raise CacheError(
                    f"{path} has {path.stat().st_size} bytes, the manifest promises "
                    f"{self._sizes.get(shard.path)}: it was cut or exchanged.\n"
                    f"Run `python cli.py cache verify {self.path}`."
                )
            self._open[shard.path] = OpenShard(
                path, self._layout, shard, self.identity_hash, self._tables
            )
        return self._open[shard.path]
