"""The last step of every cache: hash its files, sum up its fidelity, write its manifest."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cache.data.text_range import as_created, ranges_of
from cache.machine.durable import file_sha256
from cache.storage.identity import Identity, machine_description
from cache.storage.layout import ShardLayout
from cache.storage.lengths import lengths_path, write_lengths
from cache.storage.manifest import TOKENIZER_DIR, FileRecord, Manifest, Plan, ShardPlan
from cache.storage.shard import ShardFile
from cache.storage.tail_file import TAIL_FILE
from cache.targets.fidelity import summarise

COST = ("teacher_parameters", "teacher_rows", "teacher_seconds")
"""What `created` says of the teacher's run. A build that went on knows the seconds of its last
sitting alone, so the rows computed in it stand beside them."""


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
    paths += sorted(p for p in (out / TOKENIZER_DIR).rglob("*") if p.is_file())
    if plan.identity.tail_width:
        paths.append(out / TAIL_FILE)
    names = [path.relative_to(out).as_posix() for path in paths]
    records = {record.path: record for record in known}
    manifest = Manifest(
        plan=plan,
        files=tuple(records.get(p) or _record(out, p) for p in names),
        fidelity=summarise(fidelity),
        created={
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine_description(),
            "device": device,
            **(record or {}),
        },
    )
    manifest.write(out)
    return manifest


def joint_record(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What `created` says of several caches together: the texts read, and the teacher's cost.

    The cost is left out if one of them does not say it.
    """
    texts = as_created(one for manifest in manifests for one in ranges_of(manifest))
    costs = [[manifest.created.get(name) for name in COST] for manifest in manifests]
    if any(None in cost for cost in costs):
        return texts
    parameters, rows, seconds = zip(*costs, strict=True)
    return {**dict(zip(COST, (parameters[0], sum(rows), sum(seconds)), strict=True)), **texts}


def open_shard_file(out: Path, shard: ShardPlan, identity: Identity) -> ShardFile:
    """A shard of a cache, opened and checked against the plan.

    Raises:
        CacheError: it is missing, damaged, or not the shard of the plan.
    """
    return ShardFile(
        out / shard.path,
        ShardLayout.of(identity),
        num_documents=shard.num_documents,
        num_tokens=shard.num_tokens,
        identity=identity,
    )


def _record(out: Path, name: str) -> FileRecord:
    path = out / name
    return FileRecord(path=name, num_bytes=path.stat().st_size, sha256=file_sha256(path))


def _read_shards(out: Path, plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(F, measures) that the shards measured of themselves, and each split's lengths."""
    fidelity: list[np.ndarray] = []
    lengths: dict[str, list[np.ndarray]] = {}
    for shard in plan.shards:
        with open_shard_file(out, shard, plan.identity) as file:
            fidelity.append(file.read("fidelity"))
            lengths.setdefault(shard.split, []).append(np.diff(file.read("token_offsets")))
    return np.concatenate(fidelity), {k: np.concatenate(parts) for k, parts in lengths.items()}
