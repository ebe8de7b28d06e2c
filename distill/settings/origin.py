"""Where a student's first weights come from. Imports nothing heavy."""

import json
from dataclasses import MISSING, dataclass, fields
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
    """`uniform`, `influence`, `kl`, `hand`, or `all` where every layer was kept."""
    kl_before_training: float | None
    """KL(teacher ‖ student) at T = 1, nats a token; None where nothing was measured."""
    measured_on: str | None = None
    """The cache or dataset whose first documents were measured on."""
    teacher_feed_forward: int | None = None
    """Neurons of the teacher's feed-forward networks, where some were taken out."""
    feed_forward: int | None = None
    """Those of the student's, chosen by what they add; None: all of the teacher's."""
    teacher_kv_heads: int | None = None
    """Heads of keys and values of the teacher, where some were taken out."""
    kept_kv_heads: tuple[tuple[int, ...], ...] | None = None
    """Those that each layer of the student has, chosen by what they add; None: all."""
    reconstructed_on: int | None = None
    """Tokens on which its feed-forward networks were fitted to the teacher's states; None: not."""


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
        known = {
            field.name: content[field.name]
            for field in fields(StudentOrigin)
            if field.default is MISSING or field.name in content
        }
        heads = known.get("kept_kv_heads")
        known["kept_kv_heads"] = heads and tuple(map(tuple, heads))
        return StudentOrigin(**{**known, "kept_layers": tuple(known["kept_layers"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DistillError(
            f"{path} is damaged ({type(error).__name__}: {error}). Cut the student again."
        ) from error
