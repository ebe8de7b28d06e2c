"""Conversations to documents, through a chat template or as they stand."""

from collections.abc import Sequence

from cache.data.chat import chat_document, require_template
from cache.data.conversations import Conversation
from cache.data.documents import (
    Document,
    DroppedDocument,
    fitting_documents,
    pair_document,
    require_end_of_text,
)
from cache.data.templates import CHAT
from cache.data.text_format import TextFormat
from cache.errors import CacheError


def build_conversations(
    conversations: Sequence[Conversation],
    tokenizer,
    *,
    template: str,
    max_length: int,
    long_documents: str,
    texts: TextFormat,
) -> tuple[list[Document], list[DroppedDocument]]:
    """Documents in the order of the rows, and the rows that were left out.

    Args:
        template: `chat`, or `pair` of prompts and completions that are texts.

    Raises:
        CacheError: the tokenizer has no chat template, or no end-of-text token for pairs.
    """
    if template == CHAT:
        require_template(tokenizer)
    else:
        require_end_of_text(tokenizer)

    def build(conversation: Conversation) -> Document:
        if template == CHAT:
            return chat_document(conversation, tokenizer, parse_special=texts.parse_special)
        if conversation.pair is None:
            raise CacheError("a conversation of turns is no prompt with a completion")
        return pair_document(conversation.task_id, conversation.pair, tokenizer, texts)

    return fitting_documents(
        conversations, build, max_length=max_length, long_documents=long_documents
    )
