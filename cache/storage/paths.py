"""What the files of a cache are called: a manifest that names any other is refused.

A cache may come from a stranger. Whatever is read, copied, pulled, pushed, merged or deleted is
named by a manifest, so that names are looked at where a manifest is read and nowhere else.
"""

import re

from cache.data.corpus import require_split_names
from cache.errors import CacheError
from cache.storage.tail_file import TAIL_FILE

TOKENIZER_DIR = "tokenizer"
LENGTHS_DIR = "lengths"
_NAME = r"(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f]{1,100}"
_TOKENIZER_FILE = re.compile(rf"{TOKENIZER_DIR}(/{_NAME}){{1,4}}")


def require_shard_path(path: str, split: str) -> None:
    """Raise CacheError unless a path is that of a shard of a split."""
    require_split_names((split,))
    if not re.fullmatch(rf"{re.escape(split)}/shard-\d{{5,9}}\.h5", path):
        raise CacheError(f"{path!r} is not the path of a shard of {split!r}; it is refused")


def require_file_path(path: str, shards: set[str]) -> None:
    """Raise CacheError unless a path is one that a file of a cache has.

    Args:
        path: inside the cache directory.
        shards: paths of its shards.
    """
    if path in shards or path == TAIL_FILE or _TOKENIZER_FILE.fullmatch(path):
        return
    folder, _, name = path.partition("/")
    lengths = re.fullmatch(r"(.+)-\d{1,15}\.npy", name)
    if folder != LENGTHS_DIR or lengths is None:
        raise CacheError(f"{path!r} is not the path of a file of a cache; it is refused")
    require_split_names((lengths[1],))
