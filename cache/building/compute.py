"""The shards of stage one: the teacher run over documents, its rows encoded and written."""

from collections.abc import Sequence

import numpy as np

from cache.building.config import BuildConfig
from cache.building.encode import compute_rows
from cache.building.prepare import Prepared
from cache.building.writer import ShardAssembly, ShardWriter
from cache.machine.progress import BuildProgress
from cache.storage.layout import ShardLayout
from cache.storage.manifest import ShardRecord
from cache.storage.shard import ShardFile, is_intact
from cache.storage.tail_file import load_codec
from cache.teacher.rows import plan_batches


class ShardMaker:
    """Computes shards of a prepared directory, each on its own: its bytes depend on no other."""

    def __init__(self, config: BuildConfig, prepared: Prepared):
        """Read the tail's file."""
        self._config, self._prepared = config, prepared
        self._identity = prepared.plan.identity
        self._layout = ShardLayout.of(self._identity)
        codec = load_codec(config.out, self._identity)
        self._codec = codec.to(prepared.teacher.head.weight.device)

    def missing(self, shards: Sequence[ShardRecord]) -> list[ShardRecord]:
        """Those that are not there, or not whole."""
        out = self._config.out
        return [
            s for s in shards if not (is_intact(out, s, self._identity) and self._has_documents(s))
        ]

    def _has_documents(self, shard: ShardRecord) -> bool:
        """Whether a shard's tokens are those planned: its identity does not tell."""
        planned = [document.token_ids for document in self._prepared.job.documents_of(shard)]
        with ShardFile(self._config.out, shard, self._identity) as file:
            return np.array_equal(file.read("token_ids"), np.concatenate(planned))

    def make(self, shards: Sequence[ShardRecord], progress: BuildProgress | None = None) -> None:
        """Compute and write shards.

        Raises:
            CacheError: NaN logits, a full disk.
        """
        writer = ShardWriter(self._identity.shard_sha256)
        try:
            for shard in shards:
                self._make(shard, writer, progress)
            writer.finish()
        finally:
            writer.close()

    def _make(
        self, shard: ShardRecord, writer: ShardWriter, progress: BuildProgress | None
    ) -> None:
        path = self._config.out / shard.path
        documents = self._prepared.job.documents_of(shard)
        assembly = ShardAssembly(documents, self._layout, self._codec.tables)
        for indices in plan_batches(documents, self._config.batch_tokens):
            batch = [documents[i] for i in indices]
            rows = compute_rows(self._prepared.teacher, batch, self._codec)
            writer.add(assembly, indices, rows)
            if progress:
                progress.advance(sum(d.num_rows for d in batch))
        writer.write(path, assembly)
        if progress:
            progress.shard_done(path, shard.num_rows)
