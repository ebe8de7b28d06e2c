"""A shard in use: its documents in memory, its rows unpacked as they are asked for."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from cache.errors import CacheError
from cache.storage.identity import Identity
from cache.storage.layout import ShardLayout
from cache.storage.manifest import ShardRecord
from cache.storage.packing import GROUP_ROWS, unpack_group, unpack_rows
from cache.storage.shard import ShardFile, derived_marks, require_documents
from cache.targets.rans import FrequencyTables


class OpenShard:
    """Documents and rows of one shard."""

    def __init__(
        self,
        directory: Path,
        plan: ShardRecord,
        identity: Identity,
        tables: FrequencyTables | None,
    ):
        """Open a shard of a cache; `tables` decode the coefficients of a lowrank tail.

        Raises:
            CacheError: it is missing, damaged, or not what the manifest promises.
        """
        self.file = ShardFile(directory, plan, identity)
        self._layout = layout = ShardLayout.of(identity)
        self._tables, self._plan = tables, plan
        self.offsets = self.file.read("token_offsets")
        self.prompt_lengths = self.file.read("prompt_lengths").astype(np.int64)
        self.task_ids = self.file.read("task_ids")
        self.token_ids = self.file.read("token_ids")
        require_documents(self.offsets, self.prompt_lengths, plan.num_tokens, str(self.file.path))
        if (self.token_ids >= layout.vocab_size).any():
            raise CacheError(
                f"{self.file.path}: token ids beyond the vocabulary of {layout.vocab_size}"
            )
        self.marks = self._read_marks()
        self._counts = self._entry_offsets = None
        if layout.ragged:
            self._counts = self.file.read("topk_counts")
            self._entry_offsets = np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)])

    def _read_marks(self) -> np.ndarray:
        """(num_tokens,) uint8; of version 3, what prompts and completions make them."""
        if self._layout.marked:
            return self.file.read("token_marks")
        return derived_marks(self.offsets, self.prompt_lengths)

    def rows_of(self, document: int) -> tuple[int, int]:
        """First row of a document, and the one after its last."""
        first, last = (int(offset) for offset in self.offsets[document : document + 2])
        return first - document, last - document - 1

    def row_range(
        self, start: int, stop: int, names: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Encoded rows `start` to `stop` of the shard.

        Args:
            names: fields wanted, of those in `ShardLayout.row_fields`; None wants all.

        Raises:
            CacheError: the bytes on disk are damaged.
        """
        packed, counts = {}, None
        wanted = self._layout.row_fields() if names is None else names
        for name in wanted:
            if name == "tail_codes":
                continue
            first, last = start, stop
            if self._entry_offsets is not None and name in ("topk_ids", "topk_logprobs"):
                first, last = (int(self._entry_offsets[i]) for i in (start, stop))
            packed[name] = self.file.read(name, first, last)
        if self._counts is not None and "topk_ids" in packed:
            counts = self._counts[start:stop]
        try:
            rows = unpack_rows(packed, counts=counts, num_entries=self._layout.num_entries)
        except CacheError as error:
            raise CacheError(f"{self.file.path}: {error}. Run `cache verify`.") from error
        if self._tables is not None and "tail_codes" in wanted:
            rows["tail_codes"] = self._codes(start, stop)
        return rows

    def _codes(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for group in range(start // GROUP_ROWS, -(-stop // GROUP_ROWS)):
            begin = group * GROUP_ROWS
            parts.append(self._group(group)[max(start - begin, 0) : stop - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _group(self, group: int) -> np.ndarray:
        assert self._tables is not None
        begin = group * GROUP_ROWS
        end = min(begin + GROUP_ROWS, self._plan.num_rows)
        first, last = (int(n) for n in self.file.read("tail_word_offsets", group, group + 2))
        if not 0 <= first <= last:
            raise CacheError(f"{self.file.path}: tail_word_offsets do not ascend.")
        return unpack_group(
            self.file.read("tail_states", begin, end),
            self.file.read("tail_words", first, last),
            self._tables,
            str(self.file.path),
        )
