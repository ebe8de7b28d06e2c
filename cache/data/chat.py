"""Conversations through a tokenizer's own chat template, with the assistant's tokens marked.

Few templates say which tokens are the assistant's (`{% generation %}`), and without that
transformers gives a mask of zeros. So every turn is rendered twice: what the assistant is asked
with (the generation prompt) and that with its answer; the difference is what it wrote.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from cache.data.conversations import Conversation
from cache.data.documents import ASSISTANT, BEGINS, Document
from cache.data.text_format import require_unicode
from cache.errors import CacheError

CHAT_DATE = "2025-01-01"
"""What templates that print the day are told: a cache does not depend on when it is made."""
Span = tuple[int, int]
_DAY = datetime.fromisoformat(CHAT_DATE)
_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def require_template(tokenizer) -> None:
    """Raise CacheError where a tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise CacheError(
            f"The tokenizer {tokenizer.name_or_path} has no chat template, so --template chat "
            "cannot be used. Take another template, or an Instruct teacher."
        )


def template_sha256(tokenizer) -> str:
    """Hash of a tokenizer's chat template."""
    require_template(tokenizer)
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def render(tokenizer, messages: Sequence[dict[str, Any]], *, asking: bool = False) -> str:
    """Messages as text; `asking` ends with what the assistant's next turn is asked with.

    Raises:
        CacheError: the template refuses them.
    """
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            chat_template=_dated(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=asking,
            date_string=_DAY.strftime("%d %b %Y"),
        )
    except Exception as error:  # jinja's own, and what templates raise
        raise CacheError(f"the chat template refuses the messages: {error}") from error


def _dated(template: str) -> str:
    """A template that asks for no clock.

    Raises:
        CacheError: it asks in a way that is not known.
    """
    dated = _NOW.sub(lambda found: repr(_DAY.strftime(found[2])), template)
    if "strftime_now" in dated:
        raise CacheError(
            "the chat template computes the form of the date it prints, which cannot be fixed"
        )
    return dated


def chat_document(conversation: Conversation, tokenizer, *, parse_special: bool) -> Document:
    """A conversation as one document.

    Raises:
        CacheError: it has no assistant's turn, a message writes out a special token's name, or it
            cannot be told which tokens the assistant wrote.
    """
    if not parse_special:
        _require_plain(conversation, tokenizer)
    text, spans = rendered_spans(conversation.messages, tokenizer)
    require_unicode(text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids = np.array(encoded["input_ids"], dtype=np.int64)
    marks = _marks(encoded["offset_mapping"], spans)
    written = np.flatnonzero(marks & ASSISTANT)
    if not len(written) or written[0] == 0:
        raise CacheError("no token of the conversation is the assistant's")
    return Document(
        task_id=conversation.task_id,
        token_ids=token_ids,
        prompt_length=int(written[0]),
        marks=marks,
    )


def rendered_spans(messages: Sequence[dict[str, Any]], tokenizer) -> tuple[str, list[Span]]:
    """The whole text, and where in it the assistant's turns stand, by character.

    A turn ends with the token that closes it, which is the assistant's too, and not with what the
    template puts behind that.

    Raises:
        CacheError: the template renders a turn otherwise when others follow it.
    """
    whole, spans = render(tokenizer, messages), []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = render(tokenizer, messages[:number], asking=True)
        answered = render(tokenizer, messages[: number + 1])
        if not answered.startswith(asked) or not whole.startswith(answered):
            raise CacheError(
                f"turn {number} is rendered otherwise once it is answered or followed, so it "
                "cannot be told which tokens the assistant wrote (templates that drop earlier "
                "reasoning do that); keep conversations of one answer"
            )
        end = len(answered)
        closed = answered.rstrip()
        if any(closed.endswith(token) for token in tokenizer.all_special_tokens):
            end = len(closed)
        spans.append((len(asked), end))
    return whole, spans


def _marks(offsets: Sequence[Span], spans: Sequence[Span]) -> np.ndarray:
    marks = np.zeros(len(offsets), dtype=np.uint8)
    marks[0] = BEGINS
    for place, (start, end) in enumerate(offsets):
        for first, last in spans:
            if first <= start and end <= last and start < end:
                marks[place] |= ASSISTANT
            elif start < first < end or start < last < end:
                raise CacheError("a token stands across the edge of a turn")
    return marks


def _require_plain(conversation: Conversation, tokenizer) -> None:
    """Inside of a template a name would become the token, wherever it was written."""
    for message in conversation.messages:
        content = message.get("content")
        for token in tokenizer.all_special_tokens:
            if isinstance(content, str) and token in content:
                raise CacheError(
                    f"a message writes out {token!r}, which the chat template would make the "
                    "token of that name (--parse-special allows it)"
                )
