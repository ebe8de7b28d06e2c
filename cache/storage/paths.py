"""What the files of a cache are called: a manifest that names any other is refused.

A cache may come from a stranger. Whatever is read, copied, pulled, pushed, merged or deleted is
named by a manifest, so that names are looked at where a manifest is read and nowhere else.
"""

import re

from cache.data.corpus import is_split_name
from cache.storage.tail_file import TAIL_FILE

TOKENIZER_DIR = "tokenizer"
LENGTHS_DIR = "lengths"
_NAME = r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}"
_TOKENIZER_FILE = re.compile(rf"{TOKENIZER_DIR}(/{_NAME}){{1,4}}")


def is_shard_path(path: str, split: str) -> bool:
    """Whether a path inside the cache directory is that of a shard of a split."""
    return re.fullmatch(rf"{re.escape(split)}/shard-\d{{5,9}}\.h5", path) is not None


def is_file_path(path: str) -> bool:
    """Whether it is that of a file beside the shards that a manifest records."""
    folder, _, name = path.partition("/")
    if folder == LENGTHS_DIR:
        lengths = re.fullmatch(r"(.+)-\d{1,15}\.npy", name)
        return lengths is not None and is_split_name(lengths[1])
    return path == TAIL_FILE or _TOKENIZER_FILE.fullmatch(path) is not None
