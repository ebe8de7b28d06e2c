"""How texts become tokens: what an identity records of it. Imports nothing heavy."""

from dataclasses import dataclass

from cache.errors import CacheError

BOS_CHOICES = ("auto", "always", "never")
"""`auto`: what the tokenizer itself puts before a text."""


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """Everything but tokenizer and template that decides a text's tokens."""

    prefix_ids: tuple[int, ...] = ()
    """Put before every text: the beginning-of-sequence token, or nothing."""
    parse_special: bool = False
    """Whether `<|endoftext|>` and its like, written out in data, are the tokens of that name."""
    isolated: bool = False
    """Whether texts packed into one document have positions and attention of their own."""
    chat_template_sha256: str = ""
    """Of the tokenizer's chat template; empty where none was used."""
    chat_date: str = ""
    """The day that templates which print one were told; empty where no template was used."""
    line_end_in_prompt: bool = False
    """Whether the line's end before a completion stands in the prompt: its tokenizer joins it to
    what is before it. False in caches made before this was looked at."""

    def words(self, before: str) -> str:
        """In a line, for people.

        Args:
            before: what `prefix_ids` are; a chat template says itself what begins a text.
        """
        if self.chat_template_sha256:
            before = f"what the chat template writes (sha256 {self.chat_template_sha256[:12]})"
        words = [before]
        if self.parse_special:
            words.append("special tokens' names in data are those tokens")
        if self.isolated:
            words.append("packed texts do not see each other")
        if self.line_end_in_prompt:
            words.append("a prompt ends with its line's end")
        return "; ".join(words)


def require_unicode(text: str) -> None:
    """Raise CacheError where a text has half a surrogate pair: no file holds it, no token is it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CacheError(
            f"the text has half a character ({text[error.start]!a}) at place {error.start}"
        ) from error


def text_format_from_json(content: dict) -> TextFormat:
    """A format as `dataclasses.asdict` wrote it.

    Raises:
        CacheError: it does not have the fields of one.
    """
    kinds = {
        "prefix_ids": list,
        "parse_special": bool,
        "isolated": bool,
        "chat_template_sha256": str,
        "chat_date": str,
        "line_end_in_prompt": bool,
    }
    content = {"line_end_in_prompt": False, **content}
    if set(content) != set(kinds) or any(not isinstance(content[k], v) for k, v in kinds.items()):
        raise CacheError(f"the identity's texts are {content!r}")
    return TextFormat(**{**content, "prefix_ids": tuple(int(i) for i in content["prefix_ids"])})
