"""From a configuration and a tokenizer to how texts become tokens."""

import warnings

from cache.building.config import BuildConfig
from cache.data.chat import CHAT_DATE, template_sha256
from cache.data.templates import CHAT, PAIR, opening_of
from cache.data.text_format import TextFormat
from cache.data.tokenise import joins_line_ends, prefix_of
from cache.errors import CacheWarning


def texts_of(config: BuildConfig, tokenizer) -> TextFormat:
    """How the texts of a job become tokens.

    Raises:
        CacheError: the tokenizer has not what `config.bos` asks for.
    """
    if config.template == CHAT:  # which says itself what begins a text
        return TextFormat(
            parse_special=config.parse_special,
            chat_template_sha256=template_sha256(tokenizer),
            chat_date=CHAT_DATE,
        )
    may_begin_with_line_end = config.template == PAIR or bool(opening_of(config.template))
    return TextFormat(
        prefix_ids=prefix_of(tokenizer, config.bos),
        parse_special=config.parse_special,
        isolated=config.corpus is not None and config.isolate,
        line_end_in_prompt=may_begin_with_line_end and joins_line_ends(tokenizer),
    )


def warn_of_template(config: BuildConfig, tokenizer) -> None:
    """CacheWarning where a teacher has a chat template and is asked by another."""
    if config.template != CHAT and tokenizer.chat_template and config.corpus is None:
        warnings.warn(
            f"{config.teacher} has a chat template, and the template {config.template!r} is used: "
            "an Instruct teacher is asked in a form that it was not tuned for. --template chat "
            "asks it in its own.",
            CacheWarning,
            stacklevel=2,
        )
