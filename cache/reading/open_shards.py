"""The shards of a cache in use, in bounded memory: files kept open, rows kept unpacked.

Rows are unpacked a whole group at a time, of which one document needs a twentieth; whoever keeps
the groups that go on being needed unpacks each of them once.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cache.errors import CacheError
from cache.reading.open_shard import OpenShard
from cache.storage.layout import ShardLayout
from cache.storage.manifest import Manifest, ShardRecord
from cache.storage.packing import GROUP_ROWS
from cache.targets.rans import FrequencyTables

UnpackedRows = dict[str, np.ndarray]

BLOCK_BYTES = 32 << 20
"""Unpacked rows of one block: with the default format, a shard of the default size."""
KEPT_BLOCKS = 12
"""Blocks whose unpacked rows are kept, so 384 MiB at most unless a group is above 32 MiB."""
MAX_OPEN = 64
"""Shards kept open: file handles, and the tokens of their documents."""


class OpenShards:
    """Shards opened when they are first needed, and their rows unpacked then; nothing shared."""

    def __init__(
        self, directory: Path, manifest: Manifest, tables: Callable[[], FrequencyTables | None]
    ):
        """Open nothing yet; `tables` decode the coefficients of a lowrank tail."""
        self._directory, self._identity, self._tables = directory, manifest.identity, tables
        self._layout = ShardLayout.of(manifest.identity)
        self._fields = self._layout.target_fields()
        self._sizes = {file.path: file.num_bytes for file in manifest.files}
        sizes = [dtype.itemsize * int(np.prod(rest)) for dtype, rest in self._fields.values()]
        groups_per_block = max(1, BLOCK_BYTES // (GROUP_ROWS * sum(sizes)))
        self.block_rows = GROUP_ROWS * groups_per_block
        """Rows of a block: consecutive rows of a shard, whole groups."""
        self.max_groups = KEPT_BLOCKS * groups_per_block
        """Most groups that are kept unpacked."""
        self.num_unpacked = 0
        """Groups unpacked so far."""
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], UnpackedRows] = OrderedDict()

    @property
    def num_kept(self) -> int:
        """Groups that are unpacked now."""
        return len(self._groups)

    def shard(self, plan: ShardRecord) -> OpenShard:
        """A shard, opened. It may be closed when others are asked for.

        Raises:
            CacheError: it is missing, damaged, or not what the manifest promises.
        """
        if plan.path in self._open:
            self._open.move_to_end(plan.path)
            return self._open[plan.path]
        path, promised = self._directory / plan.path, self._sizes.get(plan.path)
        if path.is_file() and path.stat().st_size != promised:
            raise CacheError(
                f"{path} has {path.stat().st_size} bytes, the manifest promises {promised}: it "
                f"was cut or exchanged.\nRun `python cli.py cache verify {self._directory}`."
            )
        opened = OpenShard(self._directory, plan, self._identity, self._tables())
        self._open[plan.path] = opened
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].file.close()
        return opened

    def rows(self, plan: ShardRecord, start: int, stop: int) -> list[UnpackedRows]:
        """Rows `start` to `stop` of a shard, as views of the groups in which they lie.

        Raises:
            CacheError: the shard is missing or damaged.
        """
        parts = []
        for group in range(start // GROUP_ROWS, -(-stop // GROUP_ROWS)):
            begin = group * GROUP_ROWS
            rows = self._kept((plan.path, group), partial(self._unpack, plan, begin))
            inside = slice(max(start - begin, 0), stop - begin)
            parts.append({name: values[inside] for name, values in rows.items()})
        return parts

    def close(self) -> None:
        """Close the files and keep no rows; what is asked for later is opened again."""
        for shard in self._open.values():
            shard.file.close()
        self._open.clear()
        self._groups.clear()

    def _kept(self, key: tuple[str, int], unpack: Callable[[], UnpackedRows]) -> UnpackedRows:
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        while len(self._groups) >= self.max_groups:  # first, so that no more are ever there
            self._groups.popitem(last=False)
        self._groups[key] = unpack()
        self.num_unpacked += 1
        return self._groups[key]

    def _unpack(self, plan: ShardRecord, begin: int) -> UnpackedRows:
        stop = min(begin + GROUP_ROWS, plan.num_rows)
        rows = self.shard(plan).row_range(begin, stop, self._fields)
        vocab_size = self._identity.vocab_size
        for name in ("topk_ids", "tail_ids"):
            if name in rows and int(rows[name].max()) >= vocab_size:
                path = self._directory / plan.path
                raise CacheError(f"{path}: {name} beyond the vocabulary of {vocab_size}")
        if "tail_codes" in rows:  # torch transposes bytes three times as fast as NumPy
            rows["tail_codes"] = torch.from_numpy(rows["tail_codes"]).contiguous().numpy()
        return rows
