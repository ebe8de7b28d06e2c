"""Writing shards while the teacher works on: a thread that fetches, assembles and writes."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cache.documents import Document
from cache.rows import join_rows
from cache.shard import DOCUMENT_FIELDS, ShardLayout, write_shard
from cache.targets import TargetRows

# Batches whose results may wait on the device while the thread is busy writing.
MAX_WAITING = 4


class ShardAssembly:
    """The arrays of one shard, filled batch by batch in any order of documents."""

    def __init__(self, documents: Sequence[Document], layout: ShardLayout):
        lengths = [document.num_tokens for document in documents]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._row_starts = offsets[:-1] - np.arange(len(documents))
        self._documents = documents
        shapes = layout.shapes(len(documents), int(offsets[-1]))
        self.arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
        self._row_names = list(layout.row_fields())
        self.arrays["task_ids"][:] = [d.task_id for d in documents]
        self.arrays["prompt_lengths"][:] = [d.prompt_length for d in documents]
        self.arrays["token_offsets"][:] = offsets.astype(DOCUMENT_FIELDS["token_offsets"])
        self.arrays["token_ids"][:] = np.concatenate([d.token_ids for d in documents])

    def add(self, indices: Sequence[int], slices: Sequence[TargetRows]) -> None:
        """Put the rows of a batch (documents `indices`, end to end) where they belong."""
        rows = join_rows(slices)
        start = 0
        for index in indices:
            num_rows = self._documents[index].num_rows
            target = self._row_starts[index]
            for name in self._row_names:
                self.arrays[name][target : target + num_rows] = rows[name][start : start + num_rows]
            start += num_rows


class ShardWriter:
    """Runs the host's part of stage one in a thread of its own.

    Errors of the thread are raised by the next call.
    """

    def __init__(self, identity_sha256: str):
        self._identity_sha256 = identity_sha256
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._waiting: list[Future] = []

    def add(
        self, assembly: ShardAssembly, indices: Sequence[int], slices: list[TargetRows]
    ) -> None:
        """Queue the rows of a batch; waits while too many are queued."""
        self._submit(assembly.add, indices, slices)

    def write(self, path: Path, assembly: ShardAssembly) -> None:
        """Queue the writing of a shard whose batches are all queued."""
        self._submit(write_shard, path, assembly.arrays, identity_sha256=self._identity_sha256)

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

    def _submit(self, task, *args, **options) -> None:
        while len(self._waiting) >= MAX_WAITING:
            self._waiting.pop(0).result()
        self._waiting.append(self._thread.submit(task, *args, **options))
