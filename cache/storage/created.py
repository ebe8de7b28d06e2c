"""What a manifest records of how a cache was made: the texts read, and the teacher's cost."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cache.data.problems import GOLD
from cache.data.text_range import TEXTS, TextRange
from cache.storage.manifest import Manifest

COST = ("teacher_parameters", "teacher_rows", "teacher_seconds")
"""What `created` says of the teacher's run. A build that went on knows the seconds of its last
sitting alone, so the rows computed in it stand beside them."""
NOTES = "teacher_notes"
"""In `created`: sentences on the teacher that belong to the fidelity."""

STAMP = "teacher_stamp"
"""In `created`: a hash that stays while the teacher's files do."""
ORIGINS = "origins"
"""In `created`: by split who wrote its documents, in their order, as `[origin, how many]`."""


def ranges_of(manifest: Manifest) -> list[TextRange]:
    """The texts that a cache says it holds; none, for one of problems."""
    return [TextRange(**content) for content in manifest.created.get(TEXTS, ())]


def created_texts(ranges: Iterable[TextRange]) -> dict[str, Any]:
    """What `created` says of the ranges; nothing where there are none."""
    contents = [asdict(one) for one in ranges]
    return {TEXTS: contents} if contents else {}


def notes_of(manifest: Manifest) -> list[str]:
    """What a cache says of its teacher, in sentences."""
    return [str(note) for note in manifest.created.get(NOTES, ())]


def created_notes(notes: Iterable[str]) -> dict[str, Any]:
    """What `created` says of the teacher in sentences; nothing where there are none."""
    found = list(dict.fromkeys(notes))
    return {NOTES: found} if found else {}


def created_stamp(stamps: Iterable[str]) -> dict[str, Any]:
    """What `created` says of the teacher's files; nothing where they are not one known state."""
    found = set(stamps)
    return {STAMP: found.pop()} if len(found) == 1 and "" not in found else {}


def created_origins(origins: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What `created` says of who wrote the documents of each split; nothing where all are gold."""
    if all(origin == GOLD for split in origins.values() for origin in split):
        return {}
    runs = {
        split: [[origin, len(list(some))] for origin, some in groupby(of_split)]
        for split, of_split in origins.items()
    }
    return {ORIGINS: runs}


def origins_of(manifest: Manifest) -> dict[str, list[str]]:
    """Who wrote each document of a split, in their order; gold where nothing is said."""
    said = manifest.created.get(ORIGINS)
    if said is not None:
        return {
            split: [o for o, count in runs for _ in range(count)] for split, runs in said.items()
        }
    counts: Counter[str] = Counter()
    for shard in manifest.plan.shards:
        counts[shard.split] += shard.num_documents
    return {split: [GOLD] * count for split, count in counts.items()}


def merged_created(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What `created` says of several caches together: what was read, and the teacher's cost.

    The cost is left out if one of them does not say it.
    """
    texts = {
        **created_texts(one for manifest in manifests for one in ranges_of(manifest)),
        **created_notes(one for manifest in manifests for one in notes_of(manifest)),
        **created_stamp(str(manifest.created.get(STAMP, "")) for manifest in manifests),
    }
    if any(ORIGINS in manifest.created for manifest in manifests):
        joined: dict[str, list[str]] = {}
        for manifest in manifests:
            for split, origins in origins_of(manifest).items():
                joined.setdefault(split, []).extend(origins)
        texts |= created_origins(joined)
    costs = [[manifest.created.get(name) for name in COST] for manifest in manifests]
    if any(None in cost for cost in costs):
        return texts
    parameters, rows, seconds = zip(*costs, strict=True)
    return {**dict(zip(COST, (parameters[0], sum(rows), sum(seconds)), strict=True)), **texts}
