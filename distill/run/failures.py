"""Files and directories that are either whole or absent, whatever happens while they are written.

Each is written under a name that ends in `.tmp`, forced to disk, and renamed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from distill.errors import DistillError

TMP_SUFFIX = ".tmp"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    tmp = path.with_name(path.name + TMP_SUFFIX)
    with tmp.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(tmp, path)
    sync_directory(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `path` when the block ends without an error."""
    tmp = path.with_name(path.name + TMP_SUFFIX)
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        sync_tree(tmp)
    except Exception:
        shutil.rmtree(tmp, ignore_errors=True)  # on a full disk its space is wanted back
        raise
    if path.exists():
        shutil.rmtree(path)
    os.replace(tmp, path)
    sync_directory(path.parent)


@contextmanager
def explained(what: str, *, kept: str) -> Iterator[None]:
    """Turn a failure to write, whichever library meets it, into a sentence.

    Args:
        what: what is written, as the start of the sentence.
        kept: what there is to go on from.

    Raises:
        DistillError: the block could not write, as on a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DistillError(
            f"{what} could not be written ({type(error).__name__}: {error}). {kept} Free space "
            "or mend the disk, then go on with --resume."
        ) from error


def sync_tree(folder: Path) -> None:
    """Force a directory and all files below it to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_directory(path)
    sync_directory(folder)


def sync_directory(folder: Path) -> None:
    """Force the names in a directory to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
