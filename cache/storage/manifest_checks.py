"""What plan.json and manifest.json may say: everything that has another form is refused.

Their checksum shows damage alone; whoever writes one can seal it. Arguments are parsed JSON.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from cache.data.corpus import require_split_names
from cache.data.text_range import TEXTS, TextRange
from cache.errors import CacheError
from cache.storage.paths import is_file_path, is_shard_path

MAX_COUNT = 1 << 48
"""More than any cache holds of anything; NumPy's integers hold sums of such counts."""
_CREATED: dict[str, Any] = {
    "date": str,
    "machine": str,
    "device": str,
    "teacher_parameters": int,
    "teacher_rows": int,
    "teacher_seconds": (int, float),
    "teacher_notes": list,
    "extensions": list,
}


def require_shards(shards: Any) -> None:
    """Raise CacheError unless they are the shards of a cache, split by split without a gap."""
    if not shards:
        raise CacheError("it names no shard, and a cache has one or more")
    next_document: dict[str, int] = {}
    for shard in shards:
        path, split = shard["path"], shard["split"]
        require_split_names((split,))
        if not is_shard_path(path, split):
            raise CacheError(f"{path!r} is not the path of a shard of {split!r}; it is refused")
        first, documents, tokens = (
            require_count(shard[name]) for name in ("first_document", "num_documents", "num_tokens")
        )
        if not 1 <= documents <= tokens // 2:
            raise CacheError(
                f"{path} is said to hold {documents} documents of {tokens} tokens in all; "
                "a document has 2 or more"
            )
        if first != next_document.get(split, 0):
            raise CacheError(f"the documents of {path} do not follow the last shard's")
        next_document[split] = first + documents
    _require_distinct(shard["path"] for shard in shards)


def require_files(files: Any, shards: set[str]) -> None:
    """Raise CacheError unless they are records of a cache's files, all of its shards among them.

    Args:
        shards: their paths.
    """
    for file in files:
        if file["path"] not in shards and not is_file_path(file["path"]):
            raise CacheError(
                f"{file['path']!r} is not the path of a file of a cache; it is refused"
            )
        require_count(file["num_bytes"])
        _require_kind(file["sha256"], str)
    _require_distinct(file["path"] for file in files)
    if unrecorded := sorted(shards - {file["path"] for file in files}):
        raise CacheError(f"it has no checksum of {unrecorded[0]}")


def require_dropped(dropped: Any) -> None:
    """Raise CacheError unless it is the problems that were left out, by split."""
    for problems in dropped.values():
        _require_kind(problems, list)
        for problem in problems:
            if set(problem) != {"task_id", "reason"}:
                raise CacheError(f"{problem!r} stands where a problem that was left out belongs")


def require_fidelity(rows: Any) -> None:
    """Raise CacheError unless every figure of a fidelity is a number, or was not measured."""
    for value in (value for row in rows for value in row.values()):
        _require_kind(value, (int, float, type(None)))


def require_created(created: Any) -> None:
    """Raise CacheError unless what is recorded of a cache's making has the kinds it should."""
    _require_kind(created, dict)
    for name in ("date", "machine", "device"):
        _require_kind(created[name], str)
    for name in set(created) & set(_CREATED):
        _require_kind(created[name], _CREATED[name])
    for runs in created.get("origins", {}).values():
        for origin, count in runs:
            _require_kind(origin, str)
            require_count(count)
    for content in created.get(TEXTS, ()):
        texts = TextRange(**content)
        _require_kind(texts.stream, str)
        _require_kind(texts.split, str)
        require_count(texts.first)
        _require_kind(texts.end, (int, type(None)))


def require_count(value: Any) -> int:
    """A number of things.

    Raises:
        CacheError: it is something else, or more than there can be.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_COUNT:
        raise CacheError(f"{_short(value)} stands where a count belongs")
    return value


def _require_kind(value: Any, kind: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
        raise CacheError(f"{_short(value)} stands where {wanted} belongs")


def _require_distinct(paths: Iterable[str]) -> None:
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise CacheError(f"it names {twice[0]!r} twice")


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 100 else f"{words[:100]}…"
