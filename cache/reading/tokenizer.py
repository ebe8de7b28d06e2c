"""The tokenizer of a cache: ids mean words only with the very files that it was built with.

`AutoTokenizer.from_pretrained` reads a dozen names where it finds them. A `special_tokens_map.json`
that was put beside the others makes another token the end of text.
"""

from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.storage.manifest import Manifest
from cache.storage.paths import TOKENIZER_DIR


def require_recorded_tokenizer(directory: Path, manifest: Manifest) -> None:
    """Raise CacheError unless the tokenizer's files are those of the manifest, and no others."""
    records = [file for file in manifest.files if file.path.startswith(f"{TOKENIZER_DIR}/")]
    if not records:
        raise CacheError(f"The manifest of {directory} names no file of a tokenizer.")
    for file in records:
        path = directory / file.path
        try:
            problem = "" if file_sha256(path) == file.sha256 else "is not what was written"
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem:
            raise CacheError(
                f"{path} {problem}. Token ids would mean other words than the teacher's. Copy "
                f"{directory / TOKENIZER_DIR} again from where the cache came from, or rebuild it."
            )
    if added := unrecorded_files(directory, manifest):
        raise CacheError(
            f"{directory / added[0]} is not recorded in the manifest. Token ids might mean other "
            "words than the teacher's.\nRemove it, or copy the cache again from where it came from."
        )


def unrecorded_files(directory: Path, manifest: Manifest) -> list[str]:
    """Files among the tokenizer's that the manifest does not name; hidden ones are never read."""
    recorded = {file.path for file in manifest.files}
    found = [
        path.relative_to(directory).as_posix()
        for path in (directory / TOKENIZER_DIR).rglob("*")
        if not path.is_dir() and not path.name.startswith(".")
    ]
    return sorted(set(found) - recorded)
