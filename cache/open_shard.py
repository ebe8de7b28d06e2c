"""A shard in use: its documents in memory, its rows unpacked document by document."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from cache.errors import CacheError
from cache.layout import ShardLayout
from cache.manifest import ShardPlan
from cache.packing import GROUP_ROWS, unpack_group, unpack_rows
from cache.rans import FrequencyTables
from cache.shard import ShardFile, require_documents

MAX_GROUPS = 16
"""Groups of decoded coefficients kept a shard: at most 16 · 4096 · R bytes."""


class OpenShard:
    """Documents and rows of one shard."""

    def __init__(
        self,
        path: Path,
        layout: ShardLayout,
        plan: ShardPlan,
        identity_sha256: str,
        tables: FrequencyTables | None,
    ):
        """Open a shard; `tables` decode the coefficients of a lowrank tail.

        Raises:
            CacheError: it is missing, damaged, or not what the manifest promises.
        """
        self.file = ShardFile(
            path,
            layout,
            num_documents=plan.num_documents,
            num_tokens=plan.num_tokens,
            identity_sha256=identity_sha256,
        )
        self._layout, self._tables, self._plan = layout, tables, plan
        self.offsets = self.file.read("token_offsets")
        self.prompt_lengths = self.file.read("prompt_lengths").astype(np.int64)
        self.task_ids = self.file.read("task_ids")
        self.token_ids = self.file.read("token_ids").astype(np.int64)
        require_documents(self.offsets, self.prompt_lengths, plan.num_tokens, str(path))
        if (self.token_ids >= layout.vocab_size).any():
            raise CacheError(f"{path}: token ids beyond the vocabulary of {layout.vocab_size}")
        self._counts = self._entry_offsets = None
        if layout.ragged:
            self._counts = self.file.read("topk_counts")
            self._entry_offsets = np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)])
        self._groups: OrderedDict[int, np.ndarray] = OrderedDict()

    def rows(self, document: int) -> dict[str, np.ndarray]:
        """Encoded rows of a document, as `ShardLayout.row_fields` names them.

        Raises:
            CacheError: the bytes on disk are damaged.
        """
        start = int(self.offsets[document]) - document
        return self.row_range(start, int(self.offsets[document + 1]) - document - 1)

    def row_range(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Encoded rows `start` to `stop` of the shard."""
        packed, counts = {}, None
        for name in self._layout.row_fields():
            if name == "tail_codes":
                continue
            first, last = start, stop
            if self._entry_offsets is not None and name in ("topk_ids", "topk_logprobs"):
                first, last = (int(self._entry_offsets[i]) for i in (start, stop))
            packed[name] = self.file.read(name, first, last)
        if self._counts is not None:
            counts = self._counts[start:stop]
        try:
            rows = unpack_rows(packed, counts=counts, num_entries=self._layout.num_entries)
        except CacheError as error:
            raise CacheError(f"{self.file.path}: {error}. Run `cache verify`.") from error
        if self._tables is not None:
            rows["tail_codes"] = self._codes(start, stop)
        return rows

    def _codes(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for group in range(start // GROUP_ROWS, -(-stop // GROUP_ROWS)):
            begin = group * GROUP_ROWS
            codes = self._group(group)
            parts.append(codes[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts)

    def _group(self, group: int) -> np.ndarray:
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        assert self._tables is not None
        begin = group * GROUP_ROWS
        end = min(begin + GROUP_ROWS, self._plan.num_rows)
        first, last = (int(n) for n in self.file.read("tail_word_offsets", group, group + 2))
        if not 0 <= first <= last:
            raise CacheError(f"{self.file.path}: tail_word_offsets do not ascend.")
        codes = unpack_group(
            self.file.read("tail_states", begin, end),
            self.file.read("tail_words", first, last),
            self._tables,
            str(self.file.path),
        )
        self._groups[group] = codes
        if len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)
        return codes
