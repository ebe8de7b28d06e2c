"""Writing a teacher's tokenizer beside a cache."""

from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from cache.errors import CacheError
from cache.machine.durable import PARTIAL_SUFFIX, atomic_path


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write a tokenizer's files, each whole or not at all.

    Raises:
        CacheError: the disk is full, or the folder holds other files, which would be read too.
    """
    with TemporaryDirectory() as made:
        try:
            tokenizer.save_pretrained(made)
        except Exception as error:  # the tokenizers library has errors of its own
            raise CacheError(f"The tokenizer could not be written to {made}: {error}") from error
        names = {p.relative_to(made) for p in Path(made).rglob("*") if p.is_file()}
        _require_no_others(folder, names)
        for name in sorted(names):
            with atomic_path(folder / name) as partial:
                copyfile(made / name, partial)


def _require_no_others(folder: Path, names: set[Path]) -> None:
    for path in folder.rglob("*"):
        is_read = path.is_file() and path.name[0] != "." and path.suffix != PARTIAL_SUFFIX
        if is_read and path.relative_to(folder) not in names:
            raise CacheError(
                f"{path} is no file of this cache's tokenizer, and would be read as one.\n"
                "Remove it, or choose another --out."
            )
