"""Problems to documents: token ids with an exact boundary between prompt and completion."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from cache.data.problems import LONG_DOCUMENTS, Problem
from cache.data.templates import TEMPLATES
from cache.data.text_format import TextFormat
from cache.data.tokenise import encode_pair
from cache.errors import CacheError

ASSISTANT, BEGINS = 1, 2
"""Bits of a token's mark: it was written by the assistant (or completes a prompt, or is a corpus'
text); it is the first of a text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """One sequence of tokens: a prompt, a completion and the end-of-text token.

    Of a corpus, `max_length` tokens of its texts, each closed by end-of-text: `task_id` is the
    running number in the split, and the first token the prompt. Of a conversation, its turns.
    """

    task_id: int
    token_ids: np.ndarray
    """(num_tokens,) int64."""
    prompt_length: int
    """Tokens of the prompt: the completion starts at this position."""
    marks: np.ndarray
    """(num_tokens,) uint8: ASSISTANT and BEGINS."""
    isolated: bool = False
    """Whether each of its texts has positions and attention of its own."""

    @property
    def positions(self) -> np.ndarray:
        """(num_tokens,) int64: from 0, in each text again where they are isolated."""
        places = np.arange(self.num_tokens)
        if not self.isolated:
            return places
        starts = np.where(self.marks & BEGINS, places, 0)
        return places - np.maximum.accumulate(starts)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt, completion and end of text."""
        return len(self.token_ids)

    @property
    def num_rows(self) -> int:
        """Rows of soft targets: one for every token but the first."""
        return len(self.token_ids) - 1


def completion_marks(num_tokens: int, prompt_length: int) -> np.ndarray:
    """(num_tokens,) uint8 marks of a prompt and its completion, which are one text."""
    marks = np.where(np.arange(num_tokens) < prompt_length, 0, ASSISTANT).astype(np.uint8)
    marks[0] |= BEGINS
    return marks


@dataclass(frozen=True, kw_only=True)
class DroppedDocument:
    """A problem that gave no document, and why."""

    task_id: int
    reason: str


PLAIN = TextFormat()
"""Nothing put before a text, special tokens' names are text."""


def build_documents(
    problems: Sequence[Problem],
    tokenizer,
    *,
    template: str,
    max_length: int,
    long_documents: str = "drop",
    texts: TextFormat = PLAIN,
) -> tuple[list[Document], list[DroppedDocument]]:
    """Documents in the order of `problems`, and the problems that were left out.

    Prompt and completion are tokenised apart, so that the boundary falls between two tokens, and
    join as the text does. What `texts` puts before a text begins the prompt; the tokenizer's
    end-of-text closes the completion. A document over `max_length` tokens is dropped, or with
    `long_documents="truncate"` cut at its end.

    Raises:
        CacheError: unknown template, or a tokenizer without an end-of-text token.
    """
    if template not in TEMPLATES:
        raise CacheError(f"There is no template {template!r}; choose from {', '.join(TEMPLATES)}.")
    require_end_of_text(tokenizer)

    def build(problem: Problem) -> Document:
        return pair_document(problem.task_id, TEMPLATES[template](problem), tokenizer, texts)

    return fitting_documents(problems, build, max_length=max_length, long_documents=long_documents)


class Numbered(Protocol):
    """Something that becomes a document, and has its number."""

    @property
    def task_id(self) -> int:
        """Number in the split."""
        ...


Source = TypeVar("Source", bound="Numbered")


def fitting_documents(
    sources: Iterable[Source],
    build: Callable[[Source], Document],
    *,
    max_length: int,
    long_documents: str,
) -> tuple[list[Document], list[DroppedDocument]]:
    """Documents that are not too long, and what was left out, with reasons.

    Raises:
        CacheError: `long_documents` is neither `drop` nor `truncate`.
    """
    if long_documents not in LONG_DOCUMENTS:
        raise CacheError(f"long_documents is {long_documents!r}; it is one of {LONG_DOCUMENTS}.")
    documents, dropped = [], []
    for source in sources:
        try:
            document = build(source)
        except CacheError as error:
            dropped.append(DroppedDocument(task_id=source.task_id, reason=str(error)))
            continue
        if document.num_tokens > max_length:
            if long_documents == "drop" or document.prompt_length >= max_length:
                reason = f"{document.num_tokens} tokens, over the limit of {max_length}"
                dropped.append(DroppedDocument(task_id=source.task_id, reason=reason))
                continue
            document = replace(
                document,
                token_ids=document.token_ids[:max_length],
                marks=document.marks[:max_length],
            )
        documents.append(document)
    return documents, dropped


def require_end_of_text(tokenizer) -> None:
    """Raise CacheError where a tokenizer has no end-of-text token."""
    if tokenizer.eos_token_id is None:
        raise CacheError(
            f"The tokenizer {tokenizer.name_or_path} has no end-of-text token (eos_token).\n"
            "Documents need one to end with; set eos_token in its tokenizer_config.json."
        )


def pair_document(task_id: int, pair: tuple[str, str], tokenizer, texts: TextFormat) -> Document:
    """A prompt and its completion, closed by end-of-text.

    Raises:
        CacheError: one is empty, or they cannot be joined without changing the text.
    """
    prompt_ids, completion_ids = encode_pair(tokenizer, *pair, parse_special=texts.parse_special)
    before = [*texts.prefix_ids, *prompt_ids]
    token_ids = np.array([*before, *completion_ids, tokenizer.eos_token_id], dtype=np.int64)
    return Document(
        task_id=task_id,
        token_ids=token_ids,
        prompt_length=len(before),
        marks=completion_marks(len(token_ids), len(before)),
    )
