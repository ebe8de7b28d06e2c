"""Measurements kept as files, so that a stopped comparison does none of them twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cache.machine.durable import write_json
from evaluation.errors import EvaluationError

Kept = TypeVar("Kept")


def keep_json(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The object in the file; where there is none, it is made and written first.

    Raises:
        EvaluationError: the file is damaged, or cannot be written.
    """
    if not path.is_file():
        write_json(path, make(), EvaluationError)
    return read_kept(path, dict)


def read_kept(path: Path, parse: Callable[[dict[str, Any]], Kept]) -> Kept:
    """What a measurement's file holds, as `parse` makes it of the JSON object.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove it; what it held is then "
            "measured again."
        ) from error
