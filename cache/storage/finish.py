"""The last step of every cache: hash its files, sum up its fidelity, write its manifest."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cache.machine.durable import file_sha256
from cache.storage.identity import machine_description
from cache.storage.lengths import lengths_path, write_lengths
from cache.storage.manifest import FileRecord, Manifest, Plan
from cache.storage.paths import TOKENIZER_DIR, is_file_path
from cache.storage.shard import ShardFile
from cache.storage.tail_file import TAIL_FILE
from cache.targets.fidelity import summarise, widened


def finish_cache(
    out: Path,
    plan: Plan,
    *,
    device: str,
    record: Mapping[str, Any] | None = None,
    known: Sequence[FileRecord] = (),
) -> Manifest:
    """Write the manifest of a directory in which every shard is written: it is complete.

    Args:
        record: more for `created`: what the teacher's run cost, by the names in `COST`, where
            that is known, and the texts that were read.
        known: records of shards that were hashed before and are not read again for that.

    Raises:
        CacheError: a shard is missing or damaged, or the disk is full.
    """
    fidelity, lengths = _read_shards(out, plan)
    paths = [out / shard.path for shard in plan.shards]
    for split in lengths:
        paths.append(out / lengths_path(split, len(lengths[split])))
        write_lengths(paths[-1], lengths[split])
    tokenizer = sorted(p for p in (out / TOKENIZER_DIR).rglob("*") if p.is_file())
    paths += [path for path in tokenizer if is_file_path(path.relative_to(out).as_posix())]
    if plan.identity.tail_width:
        paths.append(out / TAIL_FILE)
    names = [path.relative_to(out).as_posix() for path in paths]
    records = {record.path: record for record in known}
    manifest = Manifest(
        plan=plan,
        files=tuple(records.get(p) or _record(out, p) for p in names),
        fidelity=summarise(fidelity),
        created={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine_description(),
            "device": device,
            **(record or {}),
        },
    )
    manifest.write(out)
    return manifest


def _record(out: Path, name: str) -> FileRecord:
    path = out / name
    return FileRecord(path=name, num_bytes=path.stat().st_size, sha256=file_sha256(path))


def _read_shards(out: Path, plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(F, measures) that the shards measured of themselves, and each split's lengths."""
    fidelity: list[np.ndarray] = []
    lengths: dict[str, list[np.ndarray]] = {}
    for shard in plan.shards:
        with ShardFile(out, shard, plan.identity) as file:
            fidelity.append(widened(file.read("fidelity")))
            lengths.setdefault(shard.split, []).append(np.diff(file.read("token_offsets")))
    return np.concatenate(fidelity), {k: np.concatenate(parts) for k, parts in lengths.items()}
