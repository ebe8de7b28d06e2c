"""The tokenizer of a cache: ids mean words only with the very files that it was built with."""

import hashlib
from pathlib import Path

from cache.errors import CacheError
from cache.storage.manifest import TOKENIZER_DIR, Manifest


def require_recorded_tokenizer(directory: Path, manifest: Manifest) -> None:
    """Raises CacheError unless the tokenizer's files are those whose checksums the manifest has."""
    for file in manifest.files:
        if not file.path.startswith(f"{TOKENIZER_DIR}/"):
            continue
        path = directory / file.path
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            problem = "" if found == file.sha256 else "is not what was written"
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem:
            raise CacheError(
                f"{path} {problem}. Token ids would mean other words than the teacher's. Copy "
                f"{directory / TOKENIZER_DIR} again from where the cache came from, or rebuild it."
            )
