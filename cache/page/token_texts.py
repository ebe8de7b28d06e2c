"""Token ids as texts that a page can show: whitespace, control characters and bytes made visible.

A tokenizer's `decode` of a single id drops the space of `▁def`, says U+FFFD of half a character
and nothing of an id that it does not know.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape

from cache.data.tokenise import prefix_of
from cache.errors import CacheError

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
"""Categories of characters that have no shape of their own, or change the shape of others."""


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """One token of a vocabulary."""

    text: str
    """What it stands for in a document."""
    raw: str
    """How the tokenizer's vocabulary spells it."""
    special: bool


class TokenTexts:
    """Texts of token ids."""

    def __init__(self, tokenizer):
        """Of a tokenizer of transformers."""
        self._tokenizer = tokenizer
        self._known: dict[int, TokenText] = {}

    def of(self, token_id: int) -> TokenText:
        """The text of an id, also of one that the tokenizer does not know."""
        if token_id not in self._known:
            self._known[token_id] = self._look_up(token_id)
        return self._known[token_id]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens: beginnings and ends of texts, marks of turns."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        marked = {token_id for token_id, token in added.items() if token.special}
        return frozenset(marked | set(self._tokenizer.all_special_ids))

    @cached_property
    def put_before_texts(self) -> tuple[int, ...]:
        """Ids that the tokenizer itself puts before a text; none where that is not clear."""
        try:
            return prefix_of(self._tokenizer)
        except CacheError:
            return ()

    def joined(self, token_ids: Iterable[int]) -> str:
        """Several tokens as they are spelt, for sentences."""
        return " ".join(visible_text(self.of(int(token_id)).raw) for token_id in token_ids)

    def _look_up(self, token_id: int) -> TokenText:
        special = token_id in self.special_ids
        try:
            raw = self._tokenizer.convert_ids_to_tokens(token_id)
        except (IndexError, OverflowError):
            raw = None
        if raw is None:
            return TokenText(text=f"⟨{token_id}⟩", raw=f"⟨{token_id}⟩", special=True)
        if special:
            return TokenText(text=raw, raw=raw, special=True)
        text = self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        if raw.startswith("▁"):
            text = raw.replace("▁", " ")
        elif not text or "\ufffd" in text:  # part of a character
            text = raw
        return TokenText(text=text, raw=raw, special=special)


def visible_html(text: str) -> str:
    """A token's text as HTML: spaces as dots, line ends as arrows and real ones, others escaped.

    No character is left that could hide, reorder or join what stands around it.
    """
    parts = []
    for place, character in enumerate(text):
        if character == " ":
            parts.append("<i>·</i>")
        elif character == "\n":
            parts.append("<i>⏎</i><br>")
        elif character == "\t":
            parts.append("<i>⇥\t</i>")
        elif unicodedata.category(character) in _HIDDEN:
            parts.append(f"<u>{ord(character):04X}</u>")
        elif place == 0 and unicodedata.category(character).startswith("M"):
            parts.append(f"◌{character}")
        else:
            parts.append(escape(character))
    # Lines may break before spaces, which are no spaces here.
    return "".join(parts).replace("</i><i>·", "·").replace("<i>·", "<wbr><i>·")


def visible_text(text: str) -> str:
    """The same as plain text, on one line."""
    found = []
    for character in text:
        mark = {" ": "·", "\n": "⏎", "\t": "⇥"}.get(character)
        hidden = unicodedata.category(character) in _HIDDEN
        found.append(mark or (f"⟨{ord(character):04X}⟩" if hidden else character))
    return "".join(found)
