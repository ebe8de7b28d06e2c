"""Texts of tokens: what a tokenizer's own decoding hides is shown."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cache.page.token_texts import TokenTexts, visible_html, visible_text
from tests.support.reports import Page
from tests.support.tokenizers import byte_level, sentencepiece


def test_spaces_are_kept_where_decoding_drops_them():
    tokenizer = sentencepiece()
    texts = TokenTexts(tokenizer)
    ids = tokenizer("def f(x):\n    return x", add_special_tokens=False)["input_ids"]
    assert "".join(texts.of(i).text for i in ids) == " def f(x):\n    return x"


def test_special_tokens_parts_of_characters_and_unknown_ids_have_a_text():
    tokenizer = byte_level()
    texts = TokenTexts(tokenizer)
    assert texts.of(2).special and texts.of(2).text == "<|im_start|>"
    parts = [texts.of(i) for i in tokenizer("é", add_special_tokens=False)["input_ids"]]
    assert [(part.text, part.special) for part in parts] == [("Ã", False), ("©", False)]
    assert texts.of(99_999).text == "⟨99999⟩"


def test_whitespace_and_what_hides_or_reorders_is_visible():
    assert visible_html("  a\n\tb") == "<wbr><i>··</i>a<i>⏎</i><br><i>⇥\t</i>b"
    assert visible_html("\u202e<b>\x00\u2028\ud800\u0301") == (
        "<u>202E</u>&lt;b&gt;<u>0000</u><u>2028</u><u>D800</u>\u0301"
    )
    assert visible_html("\u0301") == "◌\u0301"
    assert visible_text(" a\n\u200b\ud800") == "·a⏎⟨200B⟩⟨D800⟩"


@given(st.text())
def test_no_text_makes_an_element_or_leaves_a_hidden_character(text):
    tags = Page(visible_html(text)).tags
    assert set(tags) <= {"i", "u", "br", "wbr"}
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not {unicodedata.category(c) for c in visible_text(text)} & hidden
    plain = visible_html(text).replace("\t", "")
    assert not {unicodedata.category(c) for c in plain} & hidden
