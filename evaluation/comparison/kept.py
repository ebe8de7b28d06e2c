"""Measurements kept as files, so that a stopped comparison does none of them twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.machine.durable import write_json
from evaluation.errors import EvaluationError


def keep_json(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The object in the file; where there is none, it is made and written first."""
    if not path.is_file():
        write_json(path, make(), EvaluationError)
    return json.loads(path.read_text(encoding="utf-8"))
