"""Whether a teacher's files are those of another day, told without reading them."""

from pathlib import Path
from typing import Any

from cache.machine.durable import json_sha256

ADAPTER = "adapter_config.json"


def source_stamp(model: str, revision: str | None = None) -> str:
    """A hash that stays while a teacher's files do; empty where that cannot be told.

    Of a folder or a `.gguf` file it is over sizes and times, also the time of the last change of
    any kind, which no program sets; of a hub id over the commit that is on this machine, or on
    the hub where that answers. An adapter's base stands elsewhere, so it has no stamp.
    """
    path = Path(model)
    if path.is_file():
        return json_sha256(_times(path))
    if path.is_dir():
        if (path / ADAPTER).exists():
            return ""
        return json_sha256([_times(file) for file in sorted(path.iterdir()) if file.is_file()])
    return _commit(model, revision)


def _times(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _commit(model: str, revision: str | None) -> str:
    from transformers.utils.hub import cached_file, extract_commit_hash
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        if find_adapter_config_file(model, revision=revision) is not None:
            return ""
        return extract_commit_hash(cached_file(model, "config.json", revision=revision), None) or ""
    except Exception:  # the hub raises many kinds; whoever loads the teacher says which
        return ""
