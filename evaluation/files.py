"""Files that are either whole or absent."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, force it to disk, and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
