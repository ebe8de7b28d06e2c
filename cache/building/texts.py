"""From a configuration and a tokenizer to how texts become tokens."""

from cache.building.config import BuildConfig
from cache.data.text_format import TextFormat
from cache.data.tokenise import prefix_of


def texts_of(config: BuildConfig, tokenizer) -> TextFormat:
    """How the texts of a job become tokens.

    Raises:
        CacheError: the tokenizer has not what `config.bos` asks for.
    """
    return TextFormat(
        prefix_ids=prefix_of(tokenizer, config.bos),
        parse_special=config.parse_special,
        isolated=config.corpus is not None and config.isolate,
    )
