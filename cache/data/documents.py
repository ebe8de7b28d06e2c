"""Problems to documents: token ids with an exact boundary between prompt and completion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.data.problems import LONG_DOCUMENTS, Problem
from cache.data.templates import TEMPLATES
from cache.errors import CacheError


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """One sequence of tokens: a prompt, a completion and the end-of-text token.

    Of a corpus, `max_length` tokens of its texts, each closed by end-of-text: `task_id` is the
    running number in the split, and the first token the prompt.
    """

    task_id: int
    token_ids: np.ndarray
    """(num_tokens,) int64."""
    prompt_length: int
    """Tokens of the prompt: the completion starts at this position."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt, completion and end of text."""
        return len(self.token_ids)

    @property
    def num_rows(self) -> int:
        """Rows of soft targets: one for every token but the first."""
        return len(self.token_ids) - 1


@dataclass(frozen=True, kw_only=True)
class DroppedDocument:
    """A problem that gave no document, and why."""

    task_id: int
    reason: str


def build_documents(
    problems: Sequence[Problem],
    tokenizer,
    *,
    template: str,
    max_length: int,
    long_documents: str = "drop",
) -> tuple[list[Document], list[DroppedDocument]]:
    """Documents in the order of `problems`, and the problems that were left out.

    Prompt and completion are tokenised apart, so that the boundary falls between two tokens;
    the tokenizer's end-of-text closes the completion. A document over `max_length` tokens is
    dropped, or with `long_documents="truncate"` cut at its end.

    Raises:
        CacheError: unknown template, or a tokenizer without an end-of-text token.
    """
    if template not in TEMPLATES:
        raise CacheError(f"There is no template {template!r}; choose from {', '.join(TEMPLATES)}.")
    if long_documents not in LONG_DOCUMENTS:
        raise CacheError(f"long_documents is {long_documents!r}; it is one of {LONG_DOCUMENTS}.")
    require_end_of_text(tokenizer)
    documents, dropped = [], []
    for problem in problems:
        try:
            document = _build_document(problem, tokenizer, template)
        except CacheError as error:
            dropped.append(DroppedDocument(task_id=problem.task_id, reason=str(error)))
            continue
        if document.num_tokens > max_length:
            if long_documents == "drop" or document.prompt_length >= max_length:
                dropped.append(
                    DroppedDocument(
                        task_id=problem.task_id,
                        reason=f"{document.num_tokens} tokens, over the limit of {max_length}",
                    )
                )
                continue
            document = Document(
                task_id=document.task_id,
                token_ids=document.token_ids[:max_length],
                prompt_length=document.prompt_length,
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


def _build_document(problem: Problem, tokenizer, template: str) -> Document:
    prompt, completion = TEMPLATES[template](problem)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    if not prompt_ids or not completion_ids:
        raise CacheError("prompt or completion is empty")
    token_ids = np.array([*prompt_ids, *completion_ids, tokenizer.eos_token_id], dtype=np.int64)
    return Document(task_id=problem.task_id, token_ids=token_ids, prompt_length=len(prompt_ids))
