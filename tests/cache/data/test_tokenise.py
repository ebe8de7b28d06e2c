"""What is put before a text, and how what is tokenised apart joins."""

import pytest

from cache.data.documents import ASSISTANT, BEGINS, build_documents
from cache.data.problems import Problem, load_problems
from cache.data.templates import TEMPLATES
from cache.data.text_format import TextFormat
from cache.data.tokenise import (
    as_tokens_part,
    encode,
    encode_pair,
    joins_line_ends,
    prefix_of,
)
from cache.errors import CacheError, CacheWarning
from tests.support.paths import EXAMPLES
from tests.support.tokenizers import (
    byte_fallback,
    byte_level,
    line_ends_joined,
    prefix_space,
    sentencepiece,
)

PROBLEM = Problem(
    task_id=1, text="Write it.", code="class Pair(object):\n    x = '</s>'",
    test_list=("assert Pair",),
)  # fmt: skip


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@pytest.mark.parametrize(
    ("adds", "prefix"), [("", ()), ("b", ("<s>",)), ("e", ()), ("be", ("<s>",))]
)
def test_a_document_has_what_its_tokenizer_adds_once_and_one_end(make, adds, prefix):
    tokenizer = make(adds)
    expected = tuple(tokenizer.convert_tokens_to_ids(list(prefix)))
    assert prefix_of(tokenizer) == expected
    texts = TextFormat(prefix_ids=prefix_of(tokenizer))
    (document,), _ = build_documents(
        [PROBLEM], tokenizer, template="instruction", max_length=512, texts=texts
    )
    ids = document.token_ids.tolist()
    assert tuple(ids[: len(expected)]) == expected and ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.bos_token_id) == len(expected)
    assert ids.count(tokenizer.eos_token_id) == 1
    prompt = "Instruction:\nWrite it.\n\nTest list:\nassert Pair\n\nResponse:\n"
    assert tokenizer.decode(ids[: document.prompt_length], skip_special_tokens=True) == prompt
    whole = tokenizer.decode(ids[len(expected) : -1])
    assert whole == prompt + PROBLEM.code  # no space before the class
    assert document.marks.tolist() == [
        (BEGINS if place == 0 else 0) | (ASSISTANT if place >= document.prompt_length else 0)
        for place in range(len(ids))
    ]


def test_always_and_never_are_as_they_say():
    assert prefix_of(byte_level(""), "always") == (0,)
    assert prefix_of(byte_level("be"), "never") == ()
    without = byte_level("")
    without.bos_token = None
    with pytest.raises(CacheError, match="has no beginning-of-sequence token"):
        prefix_of(without, "always")
    with pytest.raises(CacheError, match="bos is 'maybe'; choose from auto, always, never"):
        prefix_of(without, "maybe")


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_names_of_special_tokens_in_data_are_text_unless_they_are_to_be_parsed(make):
    tokenizer = make("")
    text = "x = '</s>'"
    as_text = encode(tokenizer, text, parse_special=False)
    assert tokenizer.eos_token_id not in as_text
    assert tokenizer.decode(as_text) == text
    assert tokenizer.eos_token_id in encode(tokenizer, text, parse_special=True)
    assert tokenizer.eos_token_id not in encode(tokenizer, text, parse_special=False)  # as before


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("Response:\n", "class A:"), ("def f(x):\n", "    return x"), ("a", "b"), ("a ", " b")],
)
def test_prompt_and_completion_join_as_the_text_does(make, prompt, completion):
    tokenizer = make("")
    first, second = encode_pair(tokenizer, prompt, completion, parse_special=False)
    assert tokenizer.decode([*first, *second]) == prompt + completion
    assert first == encode(tokenizer, prompt, parse_special=False)


@pytest.mark.parametrize("make", [byte_level, prefix_space, sentencepiece, byte_fallback])
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_joins_in_every_kind_of_tokenizer(make, template):
    tokenizer = make()
    problems = load_problems(str(EXAMPLES), "train")
    pairs = [TEMPLATES[template](problem) for problem in problems]
    for prompt, completion in pairs:
        first, second = encode_pair(tokenizer, prompt, completion, parse_special=False)
        whole = encode(tokenizer, prompt + completion, parse_special=False)
        assert tokenizer.decode([*first, *second]) == tokenizer.decode(whole)
        assert tokenizer.decode([*first, *second]).strip() == (prompt + completion).strip()
        assert first == encode(tokenizer, prompt, parse_special=False)


@pytest.mark.parametrize(
    ("make", "joined"), [(byte_level, False), (line_ends_joined, True), (sentencepiece, False)]
)
def test_a_body_begins_where_the_tokens_of_the_whole_text_part(make, joined):
    tokenizer = make()
    assert joins_line_ends(tokenizer) == joined
    problems = load_problems(str(EXAMPLES), "train")
    documents, _ = build_documents(
        problems, tokenizer, template="signature", max_length=512, texts=TextFormat()
    )
    assert len(documents) > 20
    problem_of = {problem.task_id: problem for problem in problems}
    for document in documents:
        prompt, completion = TEMPLATES["signature"](problem_of[document.task_id])
        ids = document.token_ids.tolist()
        whole = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
        assert ids[:-1] == whole  # what the model has seen such texts as
        read = tokenizer.decode(ids[: document.prompt_length])
        assert read.lstrip() == prompt.lstrip() + "\n" * joined


def test_a_prompt_that_ends_within_a_token_is_told(recwarn):
    tokenizer = byte_level()
    assert encode_pair(tokenizer, "x =", " list", parse_special=False)
    assert not recwarn
    with pytest.warns(CacheWarning, match="one token of a prompt's end"):
        prompt, completion = encode_pair(tokenizer, "x = ", "list", parse_special=False)
    assert tokenizer.decode(prompt) == "x = "
    assert tokenizer.decode([*prompt, *completion]) == "x = list"


@pytest.mark.parametrize("completion", ["x", "", "\n", "  \n x"])
def test_a_line_end_is_moved_only_where_something_follows_it(completion):
    pair = ('"""Do it."""', completion)
    assert as_tokens_part(line_ends_joined(), *pair) == pair


def test_a_token_that_spans_the_lines_end_does_not_hinder_a_body_behind_it():
    tokenizer = byte_fallback()
    prompt, completion = "def f(x):\n", "    return x"
    whole = tokenizer.convert_ids_to_tokens(
        encode(tokenizer, prompt + completion, parse_special=False)
    )
    assert any("\n" in token.rstrip("\n") for token in whole)  # the boundary is inside of one
    first, second = encode_pair(tokenizer, prompt, completion, parse_special=False)
    assert tokenizer.decode(first) == prompt
    assert tokenizer.decode([*first, *second]) == prompt + completion


def test_nothing_is_no_prompt():
    with pytest.raises(CacheError, match="prompt or completion is empty"):
        encode_pair(byte_level(""), "", "x", parse_special=False)


def test_a_tokenizer_that_adds_something_else_is_refused():
    tokenizer = byte_level("")
    backend = tokenizer.backend_tokenizer
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 3)]
    )
    with pytest.raises(CacheError, match="what it adds is no beginning and no end of text"):
        prefix_of(tokenizer)
