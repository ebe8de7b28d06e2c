"""Rows of supervised data as conversations: the schemas that datasets for fine-tuning have."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.errors import CacheError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
"""What ShareGPT's rows call whom, and what templates do."""
SCHEMAS = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
)
"""Columns by which a row is known, the first that are all there."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in their order, or a prompt and its completion as plain text."""

    task_id: int
    """Number of the row."""
    messages: tuple[dict[str, Any], ...] = ()
    """Each with `role` and `content`, and whatever else a template may ask for."""
    pair: tuple[str, str] | None = None
    """Prompt and completion, of rows that have these as texts."""


def conversation_of(row: Mapping[str, Any], task_id: int, where: str) -> Conversation:
    """A row of any of the known schemas.

    Raises:
        CacheError: no schema fits its columns, or a field holds something else.
    """
    columns = next((c for c in SCHEMAS if all(row.get(name) is not None for name in c)), None)
    if columns is None:
        known = "; ".join(" and ".join(schema) for schema in SCHEMAS)
        raise CacheError(
            f"{where}: its columns are {', '.join(row)}. A conversation has the columns {known} "
            "(with or without input)."
        )
    if columns in (("messages",), ("conversations",)):
        return Conversation(task_id=task_id, messages=_messages(row[columns[0]], where))
    if columns == ("prompt", "completion"):
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return _of_texts(task_id, prompt, completion)
        messages = (*_messages(prompt, where), *_messages(completion, where))
        return Conversation(task_id=task_id, messages=messages)
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in (*parts, row["output"])):
        raise CacheError(f"{where}: instruction, input and output must be texts.")
    return _of_texts(task_id, "\n\n".join(part for part in parts if part), row["output"])


def _of_texts(task_id: int, prompt: str, completion: str) -> Conversation:
    return Conversation(
        task_id=task_id,
        messages=(
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": completion},
        ),
        pair=(prompt, completion),
    )


def _messages(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    if isinstance(value, str):  # some sets hold JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise CacheError(f"{where}: the messages are no list and no JSON: {error}") from error
    if not isinstance(value, Sequence) or not value:
        raise CacheError(f"{where}: the messages are {type(value).__name__}, not a list of them.")
    return tuple(_message(message, where) for message in value)


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise CacheError(f"{where}: a message is {type(message).__name__}, not an object.")
    found = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if found not in ROLES:
        raise CacheError(
            f"{where}: a message has the role {found!r}; known are {', '.join(ROLES)}."
        )
    rest = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value")}
    kept = {k: v for k, v in rest.items() if v is not None}
    return {"role": ROLES[found], "content": content, **kept}
