"""What killed writers left half-written in a cache, and nothing that others keep beside it."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cache.machine.durable import PARTIAL_SUFFIX, remove_partials
from cache.storage.manifest import MANIFEST_NAME, PLAN_NAME
from cache.storage.paths import LENGTHS_DIR, TOKENIZER_DIR, is_file_path, is_shard_path

_OWN = (PLAN_NAME, MANIFEST_NAME, "README.md")
_WORKERS_COST = re.compile(r"worker-\d+-of-\d+\.json")
_LOCK_CLAIM = re.compile(
    rf"(writing|preparing|worker-\d+-of-\d+)\.lock\.[0-9a-f]{{16}}{re.escape(PARTIAL_SUFFIX)}"
)


def remove_left_over(out: Path, splits: Iterable[str], *, of_the_dead: bool = False) -> None:
    """Delete half-written files of a cache.

    Args:
        out: its directory; the caller may write to it.
        splits: the cache's.
        of_the_dead: as in `remove_partials`.
    """
    remove_partials(out, _is_at_the_top, of_the_dead=of_the_dead)
    for path in [] if of_the_dead else out.glob(f"*{PARTIAL_SUFFIX}"):
        if _LOCK_CLAIM.fullmatch(path.name):
            path.unlink(missing_ok=True)
    tokenizer = out / TOKENIZER_DIR
    below = [path for path in tokenizer.rglob("*") if path.is_dir()]
    for folder in (out / LENGTHS_DIR, tokenizer, *below):
        where = folder.relative_to(out)
        is_ours = partial(_is_in, where, is_file_path)
        remove_partials(folder, is_ours, of_the_dead=of_the_dead)
    for split in set(splits):
        is_ours = partial(_is_in, Path(split), partial(is_shard_path, split=split))
        remove_partials(out / split, is_ours, of_the_dead=of_the_dead)


def _is_at_the_top(name: str) -> bool:
    return name in _OWN or is_file_path(name) or _WORKERS_COST.fullmatch(name) is not None


def _is_in(folder: Path, is_path: Callable[[str], bool], name: str) -> bool:
    return is_path((folder / name).as_posix())
