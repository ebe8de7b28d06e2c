"""Health: misaligned rows, texts that begin or end wrongly, teachers that do not know them."""

from dataclasses import replace

import numpy as np
import pytest

from cache.data.text_format import TextFormat
from cache.page.health import ALARM, FINE, WARN, check_health, hit_rates
from cache.page.shown import Shown, read_shown
from cache.page.token_texts import TokenTexts
from cache.reading.reader import CacheReader
from tests.support.peaked_reader import PeakedReader
from tests.support.tokenizers import byte_level

BEGIN, END, TURN = 0, 1, 2


@pytest.fixture(scope="module")
def texts(tiny_cache) -> TokenTexts:
    from transformers import AutoTokenizer

    return TokenTexts(AutoTokenizer.from_pretrained(CacheReader(tiny_cache).tokenizer_path))


def checked(reader, texts) -> dict[str, str]:
    """Sentences and states of the checks of six documents."""
    shown = read_shown(reader, "train", count=6)
    return {check.sentence: check.state for check in check_health(shown, reader.identity, texts)}


def test_a_cache_of_a_teacher_that_knows_its_texts_is_sound(tiny_cache, texts):
    found = checked(PeakedReader(tiny_cache), texts)
    assert set(found.values()) == {FINE}
    assert any(sentence.endswith("aligned.") for sentence in found)
    assert any("agrees with the stored entries in 100.0 %" in sentence for sentence in found)
    assert "All 6 texts end with <|endoftext|>." in found
    assert "Nothing is put before texts, and this tokenizer adds nothing." in found


@pytest.mark.parametrize(("shift", "where"), [(1, "after"), (-1, "before")])
def test_rows_that_fit_a_neighbouring_token_are_called_misaligned(tiny_cache, texts, shift, where):
    found = checked(PeakedReader(tiny_cache, shift=shift), texts)
    first = next(iter(found))  # the gravest stands first
    assert found[first] == ALARM
    assert f"the cache is misaligned. Its rows fit the token {where} the one they stand" in first
    assert sum("hardly knows these texts" in sentence for sentence in found) == 2


def test_a_teacher_that_guesses_tells_nothing_of_alignment(tiny_cache, texts):
    with CacheReader(tiny_cache) as reader:  # of random weights
        found = checked(reader, texts)
    assert ALARM not in found.values()
    warned = [sentence for sentence, state in found.items() if state == WARN]
    assert any("more than half of what guessing does" in sentence for sentence in warned)


def test_what_is_noted_of_other_rows_is_noticed(tiny_cache, texts):
    found = checked(PeakedReader(tiny_cache, gold_of_others=True), texts)
    alarms = [sentence for sentence, state in found.items() if state == ALARM]
    assert len(alarms) == 1 and "rows and tokens do not belong together" in alarms[0]


def made_up(*documents: list[int], begins=(), prompt: int = 1, isolated: bool = False) -> Shown:
    """Documents whose every row is sure of its token; `begins` are places of further texts."""
    token_ids = np.concatenate(documents)
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in documents])])
    by_assistant = np.ones(len(token_ids), dtype=bool)
    for start in offsets[:-1]:
        by_assistant[start : start + prompt] = False
    begun = np.zeros(len(token_ids), dtype=bool)
    begun[[*offsets[:-1].tolist(), *begins]] = True
    num_rows = len(token_ids) - len(documents)
    has_row = np.ones(len(token_ids), dtype=bool)
    has_row[offsets[:-1]] = False
    return Shown(
        split="train", numbers=np.arange(len(documents)) + 3, task_ids=np.arange(len(documents)),
        token_ids=token_ids, offsets=offsets, by_assistant=by_assistant, begins=begun,
        isolated=isolated, topk_ids=token_ids[has_row][:, None],
        topk_logprobs=np.full((num_rows, 1), -0.1, dtype=np.float32),
        entropy=np.full(num_rows, 0.2, dtype=np.float32),
        gold_logprob=np.full(num_rows, -0.1, dtype=np.float32),
        gold_rank=np.zeros(num_rows, dtype=np.int64),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sentences(tiny_cache):
    """States by sentence, for made-up documents of a tokenizer that puts `<s>` before texts."""
    identity = CacheReader(tiny_cache).identity

    def check(shown: Shown, adds: str = "b", **texts) -> dict[str, str]:
        changed = replace(identity, texts=TextFormat(**texts), max_length=99)
        found = check_health(shown, changed, TokenTexts(byte_level(adds)))
        return {one.sentence: one.state for one in found}

    return check


@pytest.mark.parametrize(
    ("shown", "state", "said"),
    [
        (made_up([0, 50, 51, 1], [0, 52, 53, 1]), FINE, "All 2 texts begin with <s>, as the cache"),
        (made_up([0, 50, 51, 1], [52, 53, 1]), ALARM, "1 of 2 texts begin without it: those of "
         "document 4."),
        (made_up([0, 0, 50, 1], [0, 52, 53, 1]), WARN, "<s> stands twice at the beginning of "
         "document 3"),
        (made_up([0, 5, 1, 0, 6, 1, 0], begins=(3, 6)), FINE, "All 3 texts begin with <s>"),
        (made_up([0, 5, 1, 6, 6, 1], begins=(3,)), ALARM, "1 of 2 texts begin without it"),
    ],
)  # fmt: skip
def test_texts_begin_with_what_the_cache_says(sentences, shown, state, said):
    found = [s for s, its in sentences(shown, prefix_ids=(BEGIN,)).items() if its == state]
    assert any(said in sentence for sentence in found), found


def test_a_beginning_that_the_tokenizer_would_add_is_missed(sentences):
    found = sentences(made_up([50, 51, 1]))
    assert [s for s, state in found.items() if state == WARN and "itself puts <s> there" in s]
    assert "Nothing is put before texts, and this tokenizer adds nothing." in sentences(
        made_up([50, 51, 1]), adds=""
    )
    chat = sentences(made_up([TURN, 51, 1]), chat_template_sha256="0" * 64)
    assert "Conversations begin as the chat template begins them: <|im_start|>." in chat


@pytest.mark.parametrize(
    ("shown", "state", "said"),
    [
        (made_up([50, 51, 1], [52, 53, 1]), FINE, "All 2 texts end with </s>."),
        (made_up([50, 51, 1], [52, 53, 54]), WARN, "1 of 2 texts have no end token: those of "
         "document 4. Students would not learn when to stop."),
        (made_up([5, 6, 1, 7, 8, 9], begins=(3,)), FINE, "All 1 texts end with </s> (1 more are "
         "cut where their document is full)."),
        (made_up([5, 6, 9, 7, 8, 1], begins=(3,)), WARN, "1 of 2 texts have no end token"),
        (made_up([5] * 99), FINE, "No text ends (1 more are cut where their document is full)."),
    ],
)  # fmt: skip
def test_texts_end_with_an_end_token(sentences, shown, state, said):
    assert (
        sentences(shown, adds="")[said] == state
        if said.endswith(".")
        else any(said in s and its == state for s, its in sentences(shown, adds="").items())
    )


def test_a_document_in_which_nothing_counts_is_named(sentences):
    found = sentences(made_up([50, 51, 1], [52, 53, 1], prompt=3), adds="")
    said = "counts 0 of 4 rows, and none of documents 3, 4."
    assert [s for s, state in found.items() if s.endswith(said) and state == WARN]


def test_hit_rates_keep_inside_of_documents_and_leave_out_repeats():
    shown = made_up([5, 6, 7, 8], [8, 8, 9, 10])
    # Of 5 6 7 and 6 7 8 each is told; 8 8 9 is a repeat, 8 9 10 is told.
    assert {by: hits.tolist() for by, hits in hit_rates(shown).items()} == {
        -1: [False] * 3, 0: [True] * 3, 1: [False] * 3,
    }  # fmt: skip


def test_the_first_of_an_isolated_text_does_not_count():
    shown = made_up([5, 6, 1, 7, 8, 1], begins=(3,), isolated=True)
    assert shown.counts.tolist() == [False, True, True, False, True, True]
