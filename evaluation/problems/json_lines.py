"""JSON lines from anywhere, a benchmark or a sample file: read whole, or refused in a sentence."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError


def read_text(path: Path) -> str:
    """What a file holds, plain or gzipped.

    Raises: EvaluationError when it cannot be read, or is not UTF-8.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error}. Need JSON lines in UTF-8, plain or gzipped"
        ) from error


def parse_lines(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the text with `<path>, line <number>`; empty lines are passed over.

    Raises: EvaluationError as `parse_json`, or where a line holds something else than an object.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise EvaluationError(
                f"{where} holds a {type(row).__name__}; need one JSON object a line"
            )
        yield where, row


def parse_json(text: str, where: str) -> Any:
    """The JSON value of a text.

    Raises: EvaluationError naming where it stands: no JSON, too deep, an integer too large.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg} (column {error.colno})"
    except RecursionError:
        reason = "is nested too deep"
    except ValueError:
        reason = "holds an integer of too many digits"
    raise EvaluationError(f"{where} {reason}. Mend or remove it")
