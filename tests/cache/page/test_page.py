"""The page as a document: it says what the reader says, and hostile texts cannot do anything."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from cache.errors import CacheError
from cache.page.page import to_html, write_page
from cache.page.shown import MOST_DOCUMENTS, read_shown
from cache.page.token_texts import TokenTexts, visible_html
from cache.page.tokens import MOST_TOKENS, PRECISION, document_html, script_json
from cache.reading.reader import CacheReader
from tests.support.command_line import run
from tests.support.hostile_tokenizer import HostileTokenizer
from tests.support.peaked_reader import PeakedReader
from tests.support.reports import HOSTILE, Page


@pytest.fixture(scope="module")
def reader(tiny_cache):
    with CacheReader(tiny_cache) as opened:
        yield opened


@pytest.fixture(scope="module")
def texts(reader) -> TokenTexts:
    from transformers import AutoTokenizer

    return TokenTexts(AutoTokenizer.from_pretrained(reader.tokenizer_path))


def boxes_in(html: str) -> list[tuple[str, str]]:
    """Classes and inner HTML of each token's box, in order."""
    return re.findall(r'<span class="([^"]+)">(.*?)</span>', html.split('class="tokens"')[1])


def test_every_token_stands_on_the_page_as_the_tokenizer_decodes_the_document(reader, texts):
    shown = read_shown(reader, "validation", first=2, count=3)
    assert shown.numbers.tolist() == [2, 3, 4]
    for document, number in enumerate(shown.numbers):
        ids = reader.read("validation", [int(number)]).token_ids.tolist()
        boxes = boxes_in(document_html(shown, document, texts))
        assert [inside for _, inside in boxes] == [visible_html(texts.of(i).text) for i in ids]
        whole = texts._tokenizer.decode(ids)
        assert "".join(texts.of(i).text for i in ids) == whole


def test_every_token_has_the_row_that_predicts_it(reader, texts):
    numbers = [0, 1, 2]
    shown = read_shown(reader, "train", count=3)
    page = Page(to_html(reader, shown, texts))
    content = json.loads(page.scripts[0])
    assert content["vocab"] == 384 and content["entries"] == 16
    for number, own in zip(numbers, content["documents"], strict=True):
        documents = reader.read("train", [number])
        ids = [content["ids"][n] for n in own["tokens"]]
        assert ids == documents.token_ids.tolist()
        assert [content["texts"][n] for n in own["tokens"]]
        for row, entries in enumerate(own["top"]):
            assert [content["ids"][n] for n in entries[::2]] == (
                documents.targets.topk_ids[row].tolist()
            )
        top = np.array([entries[1::2] for entries in own["top"]]) / -PRECISION
        stored = documents.targets.topk_logprobs.numpy()
        assert np.abs(top - stored).max() <= 0.5 / PRECISION + 1e-6
        outside = 1 - np.exp(stored.astype(np.float64)).sum(1)
        assert np.abs(np.array(own["outside"]) - outside.clip(0)).max() < 1e-4
        for name, field, factor in (("entropy", "entropy", 1), ("surprisal", "gold_logprob", -1)):
            noted = reader.read_rows("train", [number], field).astype(np.float64)
            assert np.abs(np.array(own[name]) / PRECISION - factor * noted).max() < 0.6 / PRECISION
        ranks = reader.read_rows("train", [number], "gold_rank").astype(int) + 1
        assert own["rank"] == ranks.tolist()


def test_boxes_tell_prompt_completion_first_and_special_tokens(reader, texts):
    shown = read_shown(reader, "train", count=1)
    length = int(reader.read("train", [0]).prompt_lengths[0])
    kinds = [set(classes.split()) for classes, _ in boxes_in(document_html(shown, 0, texts))]
    assert kinds[0] == {"n", "b"}
    assert [("c" in own) for own in kinds] == [i >= length for i in range(len(kinds))]
    assert "k" in kinds[-1] and not any("k" in own for own in kinds[:-1])
    assert all(any(re.fullmatch(r"h\d", one) for one in own) for own in kinds[1:])


def test_packed_texts_are_set_apart(reader, texts):
    shown = read_shown(reader, "train", count=1)
    shown.begins[5] = True
    html = document_html(shown, 0, texts)
    assert html.count('<hr aria-label="next text">') == 1
    assert "b" in boxes_in(html)[5][0].split()


def test_long_documents_are_cut_and_say_so(reader, texts, monkeypatch):
    monkeypatch.setattr("cache.page.tokens.MOST_TOKENS", 10)
    shown = read_shown(reader, "train", count=1)
    html = document_html(shown, 0, texts)
    assert len(boxes_in(html)) == 10 and "cut here after 10 tokens" in html
    content = json.loads(Page(to_html(reader, shown, texts)).scripts[0])["documents"][0]
    assert (len(content["tokens"]), len(content["top"]), len(content["rank"])) == (10, 9, 9)
    assert MOST_TOKENS >= 1024


def test_hostile_texts_become_no_element_no_script_and_no_handler(reader, texts):
    shown = read_shown(reader, "train", count=2)
    harmless = Page(to_html(reader, shown, texts))
    whole = to_html(reader, shown, TokenTexts(HostileTokenizer()))
    page = Page(whole)
    kinds = ("script", "img", "h2", "article", "main", "iframe", "link", "span", "aside", "p")
    assert {tag: page.tags[tag] for tag in kinds} == {tag: harmless.tags[tag] for tag in kinds}
    assert page.tags["img"] == page.tags["link"] == 0 and page.tags["script"] == 2
    assert not [name for name in page.attributes if name.startswith("on") or name == "src"]
    assert not set("\x00\u2028\u202e\ud800") & set(whole)
    shown_texts = json.loads(page.scripts[0])["texts"]
    assert {"</script>", "⟨202E⟩", "⟨0000⟩", "⟨D800⟩", "⏎", "·"} <= set(shown_texts)
    assert "<img·src=x·onerror=" in page.text


def test_embedded_json_is_ascii_without_angle_brackets():
    embedded = script_json({"text": HOSTILE})
    assert embedded.isascii() and not set("<>&") & set(embedded)
    assert json.loads(embedded) == {"text": HOSTILE}


def test_the_page_fetches_nothing_and_lets_only_its_own_script_run(reader, texts):
    whole = to_html(reader, read_shown(reader, "train", count=2), texts)
    assert not re.search(r"https?://|url\(|@import|\bsrc=", whole.split('id="rows"')[0])
    page = Page(whole)
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'" in whole
    assert not {name: count for name, count in page.ids.items() if count > 1}


def test_the_head_says_what_the_cache_is_and_how_healthy(tiny_cache, texts):
    with PeakedReader(tiny_cache, shift=1) as shifted:
        text = Page(to_html(shifted, read_shown(shifted, "train", count=4), texts)).text
    for part in (
        "instruction, up to 512 tokens", "before textsnothing", "k = 16, 8-bit logprobs",
        "Fidelity over", "documents 0 to 3 of 24", "the cache is misaligned",
        "Health of the 4 documents below: 3 of 7 checks need a look",
    ):  # fmt: skip
        assert part in text, part


def test_the_command_writes_a_page_and_refuses_in_sentences(tiny_cache, tmp_path):
    page = tmp_path / "pages" / "p.html"
    words = ("cache", "inspect", tiny_cache, "--html", page)
    code, output = run(*words, "--split", "validation", "--document", 7, "--documents", 9)
    assert code == 0 and f"Page: {page}" in output.replace("\n", "")
    assert "validation: documents 7 to 9 of 10" in page.read_text()
    assert page.stat().st_size < 500_000
    for more, message in (
        (("--documents", 0), "documents is 0; a page shows 1 to 40."),
        (("--documents", 41), "documents is 41; a page shows 1 to 40."),
        (("--split", "nope"), "has no split 'nope'"),
        (("--document", 24), "has documents 0 to 23; 24 was asked for"),
    ):
        code, output = run(*words, *more)
        assert code == 1 and message in " ".join(output.split()) and "Traceback" not in output


def test_no_more_documents_are_shown_than_a_page_takes(reader):
    with pytest.raises(CacheError, match="Give the number of the first with --document"):
        read_shown(reader, "train", count=MOST_DOCUMENTS + 1)
    assert len(read_shown(reader, "train", first=20, count=40).numbers) == 4


def test_a_page_that_cannot_be_written_is_named(reader, texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        write_page(reader, texts._tokenizer, tmp_path / "file" / "p.html", split="train", count=1)
