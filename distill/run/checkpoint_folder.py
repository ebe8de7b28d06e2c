"""The checkpoints of a run: which there are, which are sound, and which stay.

    checkpoints/step-00000012/
    checkpoints/step-00000024/   gone on from; where it is damaged, from the one before

Whatever else lies in the folder is somebody else's and is left alone.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.machine.durable import (
    PARTIAL_SUFFIX,
    file_sha256,
    read_sealed_json,
    write_sealed_json,
)
from distill.errors import DistillError

CHECKPOINTS = "checkpoints"
"""The folder's name in a run's."""
KEPT = 2
"""Checkpoints that a run keeps."""
STATE_FILE = "state.json"
_NAME = r"step-(\d{8,})"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if re.fullmatch(_NAME, path.name) and path.is_dir())


def seal_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state.json` beside the other files of a checkpoint, with the checksums of them all.

    Raises:
        OSError: it cannot be written.
    """
    files = [file for file in path.rglob("*") if file.is_file()]
    sums = {str(file.relative_to(path)): file_sha256(file) for file in files}
    write_sealed_json(path / STATE_FILE, {**state, "files": sums}, OSError)


def require_sound(path: Path) -> None:
    """Raises DistillError unless all files of a checkpoint are what was written."""
    try:
        sums = read_sealed_json(path / STATE_FILE)["files"]
        damaged = [name for name, found in sums.items() if file_sha256(path / name) != found]
    except (CacheError, KeyError, OSError) as error:
        raise DistillError(f"checkpoint {path} cannot be read ({error})") from error
    if damaged:
        raise DistillError(
            f"checkpoint {path} is damaged: {', '.join(damaged)} differs from what was written"
        )


def last_sound_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are what was written, and what is wrong with newer ones.

    Raises:
        DistillError: there are checkpoints, and none of them is sound.
    """
    complaints: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            require_sound(path)
            return path, complaints
        except DistillError as error:
            complaints.append(str(error))
    if complaints:
        raise DistillError(
            f"{'; '.join(complaints)}. No other one is left: remove {folder.parent} and train anew."
        )
    return None, []


def remove_checkpoints(folder: Path, *, kept: int = KEPT, up_to: int | None = None) -> None:
    """Remove all checkpoints but the newest ones, and what killed runs left half-written.

    Args:
        kept: how many stay, one or more.
        up_to: a step; checkpoints of later ones go.
    """
    sound = list_checkpoints(folder)
    if up_to is not None:
        sound = [path for path in sound if path.name <= checkpoint_path(folder, up_to).name]
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.removesuffix(PARTIAL_SUFFIX)
        if re.fullmatch(_NAME, name) and path.is_dir() and path not in sound[-kept:]:
            shutil.rmtree(path)


def what_is_kept(folder: Path) -> str:
    """A sentence on what there is to go on from."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return "There is no checkpoint yet."
    return f"The last checkpoint, {checkpoints[-1]}, is intact."
