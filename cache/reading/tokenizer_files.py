"""The tokenizer's files of a cache: those that the manifest records, as it records them, no others.

`AutoTokenizer.from_pretrained` reads a dozen names where it finds them. A `special_tokens_map.json`
that was put beside the others makes another token the end of text.
"""

from pathlib import Path

from cache.errors import CacheError
from cache.machine.durable import file_sha256
from cache.storage.manifest import Manifest
from cache.storage.paths import TOKENIZER_DIR


def require_tokenizer(directory: Path, manifest: Manifest) -> Path:
    """The folder of a cache's tokenizer.

    Raises:
        CacheError: a file is missing, is not what was written, or was put there since.
    """
    records = [file for file in manifest.files if file.path.startswith(f"{TOKENIZER_DIR}/")]
    if not records:
        raise CacheError(f"The cache at {directory} has no tokenizer. {_REMEDY}")
    for file in records:
        path = directory / file.path
        if not path.is_file():
            raise CacheError(f"{path} is missing. {_REMEDY}")
        if file_sha256(path) != file.sha256:
            raise CacheError(f"{path} is damaged: its sha256 is not the manifest's. {_REMEDY}")
    if added := unrecorded_files(directory, manifest):
        raise CacheError(
            f"{directory / added[0]} is not recorded in the manifest, and may change what the "
            "tokenizer's ids mean.\nRemove it, or copy the cache again from where it came from."
        )
    return directory / TOKENIZER_DIR


def unrecorded_files(directory: Path, manifest: Manifest) -> list[str]:
    """Files among the tokenizer's that the manifest does not name; hidden ones are never read."""
    recorded = {file.path for file in manifest.files}
    found = [
        path.relative_to(directory).as_posix()
        for path in (directory / TOKENIZER_DIR).rglob("*")
        if not path.is_dir() and not path.name.startswith(".")
    ]
    return sorted(set(found) - recorded)


_REMEDY = "Copy tokenizer/ again from where the cache came from; `cache verify` names every fault."
