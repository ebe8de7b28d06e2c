"""Writing shards while the teacher works on: a thread that fetches, assembles and writes."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cache.building.encode import ComputedRows
from cache.data.documents import Document
from cache.storage.layout import ShardLayout
from cache.storage.packing import pack_rows
from cache.storage.shard import write_shard
from cache.targets.fidelity import NUM_MEASURES
from cache.targets.rans import FrequencyTables

# Batches whose results may wait on the device while the thread is busy writing.
MAX_WAITING = 4


class ShardAssembly:
    """The rows of one shard, filled batch by batch in any order of documents."""

    def __init__(
        self, documents: Sequence[Document], layout: ShardLayout, tables: FrequencyTables | None
    ):
        """Make room for the rows; `tables` code the coefficients of a lowrank tail."""
        lengths = [document.num_tokens for document in documents]
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._row_starts = self._offsets[:-1] - np.arange(len(documents))
        self._documents, self._layout, self._tables = documents, layout, tables
        num_rows = int(self._offsets[-1]) - len(documents)
        self._rows = {
            name: np.empty((num_rows, *shape), dtype)
            for name, (dtype, shape) in layout.row_fields().items()
        }
        self._fidelity: list[np.ndarray] = []

    def add(self, indices: Sequence[int], computed: ComputedRows) -> None:
        """Put the rows of a batch (documents `indices`, end to end) where they belong."""
        rows, fidelity = computed.to_arrays()
        self._fidelity.append(fidelity)
        start = 0
        for index in indices:
            num_rows = self._documents[index].num_rows
            target = self._row_starts[index]
            for name, array in self._rows.items():
                array[target : target + num_rows] = rows[name][start : start + num_rows]
            start += num_rows

    def datasets(self) -> dict[str, np.ndarray]:
        """Everything a shard holds, packed."""
        documents = self._documents
        fidelity = np.concatenate([np.zeros((0, NUM_MEASURES)), *self._fidelity])
        return {
            "task_ids": np.array([d.task_id for d in documents], dtype="<i8"),
            "prompt_lengths": np.array([d.prompt_length for d in documents], dtype="<i4"),
            "token_offsets": self._offsets.astype("<i8"),
            "token_ids": np.concatenate([d.token_ids for d in documents]).astype(
                self._layout.id_dtype
            ),
            "token_marks": np.concatenate([d.marks for d in documents]),
            "fidelity": fidelity.astype("<f2"),
            **pack_rows(self._rows, ragged=self._layout.ragged, tables=self._tables),
        }


class ShardWriter:
    """Runs the host's part of stage one in a thread of its own.

    Errors of the thread are raised by the next call.
    """

    def __init__(self, identity_sha256: str):
        """A writer for one cache."""
        self._identity_sha256 = identity_sha256
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._waiting: list[Future] = []

    def add(self, assembly: ShardAssembly, indices: Sequence[int], computed: ComputedRows) -> None:
        """Queue the rows of a batch; waits while too many are queued."""
        self._submit(assembly.add, indices, computed)

    def write(self, path: Path, assembly: ShardAssembly) -> None:
        """Queue the writing of a shard whose batches are all queued."""
        self._submit(self._write, path, assembly)

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            CacheError: something could not be written.
        """
        try:
            for future in self._waiting:
                future.result()
        finally:
            self.close()

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _write(self, path: Path, assembly: ShardAssembly) -> None:
        write_shard(path, assembly.datasets(), identity_sha256=self._identity_sha256)

    def _submit(self, task, *args) -> None:
        while len(self._waiting) >= MAX_WAITING:
            self._waiting.pop(0).result()
        self._waiting.append(self._thread.submit(task, *args))
