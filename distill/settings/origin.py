"""Where a student's first weights come from. Imports nothing heavy."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from distill.errors import DistillError

STUDENT_FILE = "student.json"


@dataclass(frozen=True, kw_only=True)
class StudentOrigin:
    """What `student.json` says of a student that was cut from a teacher."""

    teacher: str
    """As it was named."""
    teacher_sha256: str
    """Hash of its weights, as caches record it."""
    teacher_layers: int
    """Layers of the teacher."""
    kept_layers: tuple[int, ...]
    """Those that the student has."""
    chosen_by: str
    """`uniform`, `influence`, `kl` or `hand`."""
    kl_before_training: float | None
    """KL(teacher ‖ student) at T = 1, nats a token; None where nothing was measured."""


def read_origin(folder: Path) -> StudentOrigin | None:
    """The origin of the student in a folder; None where it was not cut.

    Raises:
        DistillError: the file is damaged.
    """
    path = folder / STUDENT_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: content[field.name] for field in fields(StudentOrigin)}
        return StudentOrigin(**{**known, "kept_layers": tuple(known["kept_layers"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DistillError(
            f"{path} is damaged ({type(error).__name__}: {error}). Cut the student again."
        ) from error
