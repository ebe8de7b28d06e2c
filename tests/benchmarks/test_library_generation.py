"""transformers' side of the generation benchmark does what ours does."""

import pytest

from benchmarks.library_generation import Library
from evaluation.generation.generate import Request, generate
from evaluation.generation.tokens import encode_prompt
from tests.support.tiny_models import byte_tokenizer, settings, tiny_gpt2

PROMPTS = ("def f(x):", "x", "class LongerThanTheOthers:\n    def method(self):", "zz", "return y")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_rows_end_at_the_same_stops_as_ours(batch_size):
    model, tokenizer = tiny_gpt2(), byte_tokenizer()
    free = [
        Request(task_id=prompt, sample=0, prompt_ids=encode_prompt(tokenizer, prompt), stop=())
        for prompt in PROMPTS
    ]
    # Characters that rows write on their way, so that they end there, at different times.
    texts = [done.text for done in generate(model, tokenizer, free, settings())]
    stop = tuple(sorted({char for text in texts for char in text[4:12] if char.isascii()})[:3])
    requests = [
        Request(task_id=r.task_id, sample=0, prompt_ids=r.prompt_ids, stop=stop) for r in free
    ]
    ours = generate(model, tokenizer, requests, settings())
    library = Library(model, tokenizer, settings(), stop)
    rows = library.token_ids(requests, batch_size)
    theirs = [library.completion(i, requests[i], row) for i, row in enumerate(rows)]
    assert theirs == ours
    assert {done.finish for done in ours} >= {"stop"} and len({d.num_tokens for d in ours}) > 1
    ends = [(row, done.num_tokens) for row, done in zip(rows, ours, strict=True)]
    assert all(set(row[end:]) <= {library.pad_id} for row, end in ends)


def test_the_gap_is_that_of_the_token_where_a_text_is_left():
    model, tokenizer = tiny_gpt2(), byte_tokenizer()
    request = Request(task_id="x", sample=0, prompt_ids=encode_prompt(tokenizer, "x"), stop=())
    library = Library(model, tokenizer, settings(), ("never",))
    (row,) = library.token_ids([request], 1)
    text = generate(model, tokenizer, [request], settings())[0].raw
    assert library.logit_gap(request, row, text) is None
    assert library.logit_gap(request, row, "\0" + text) > 0
