"""Problems, templates and documents: what the teacher reads."""

import ast
import json
import sys
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from cache.building.job import plan_shards
from cache.data.documents import build_documents
from cache.data.problems import Problem, load_problems
from cache.data.templates import TEMPLATES
from cache.errors import CacheError
from cache.teacher.rows import plan_batches
from tests.support.paths import EXAMPLES


@pytest.fixture(scope="module")
def tokenizer(tiny_teacher):
    return AutoTokenizer.from_pretrained(tiny_teacher)


def problem_of(code: str, test: str = "assert f(1) == 1", **fields) -> Problem:
    return Problem(task_id=1, text="Say it.", code=code, test_list=(test,), **fields)


def row(**changes) -> str:
    problem = {"task_id": 601, "text": "t", "code": "c", "test_list": ["assert True"]}
    return json.dumps({**problem, **changes})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2 is not JSON"),
        ("[1, 2]", "line 2 is not a JSON object but list"),
        (row(code=None), "field 'code' must be str, found NoneType"),
        (row(task_id="7"), "field 'task_id' must be int"),
        (row(), "holds task_id 601 twice"),
        (row(code="x = '\ud800'"), "line 2, field 'code': the text has half a character"),
        (row(test_setup_code=["import x"]), "'test_setup_code' holds list instead of text"),
        (row(test_list=[5]), "'test_list' holds int instead of text"),
        (row(challenge_test_list=5), "'challenge_test_list' must be list, found int"),
        ('{"task_id": ' + "9" * 5000 + "}", "line 2 is not JSON that can be read: Exceeds"),
        ("[" * 100_000, "line 2 is not JSON that can be read: maximum recursion"),
    ],
)
def test_a_malformed_line_is_named_by_number(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text(row() + "\n" + line + "\n")
    with pytest.raises(CacheError, match=message):
        load_problems(str(path), "train")


def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_no_text(tmp_path):
    text = "a\u2028b\u2029c\x85d"
    raw = json.dumps(json.loads(row(text=text)), ensure_ascii=False)
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + raw.encode() + b"\r\n\n" + row(task_id=602).encode())
    assert [p.text for p in load_problems(str(path), "train")] == [text, "t"]


@pytest.mark.parametrize("code", ["def f(x):\n    return 1\0", "x = " + "-" * 50_000 + "1"])
def test_code_that_pythons_parser_gives_up_on_is_left_out(tokenizer, code):
    documents, dropped = build_documents(
        [problem_of(code)], tokenizer, template="signature", max_length=512
    )
    assert not documents and "code does not parse" in dropped[0].reason


def test_bad_sources_say_what_to_do(tmp_path):
    with pytest.raises(CacheError, match="There is no file .*takes a hub id"):
        load_problems(str(tmp_path / "absent.jsonl"), "train")
    with pytest.raises(CacheError, match="no split 'dev'"):
        load_problems(str(EXAMPLES), "dev")
    with pytest.raises(CacheError, match="no problems in split 'prompt'.*\n.*number your problems"):
        load_problems(str(EXAMPLES), "prompt")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CacheError, match="cannot be read as UTF-8"):
        load_problems(str(tmp_path / "b.jsonl"), "train")


def test_windows_line_ends_become_newlines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(row(code="def f():\r\n\treturn 1\r"))
    assert load_problems(str(path), "train")[0].code == "def f():\n\treturn 1\n"


def test_hub_rows_are_those_of_the_local_file(monkeypatch):
    rows = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return [row for row in rows if row["task_id"] >= 601]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert load_problems("org/mbpp", "train") == load_problems(str(EXAMPLES), "train")
    assert asked == [("org/mbpp", "full", "train")]


def test_a_hub_that_does_not_answer_is_a_cache_error(monkeypatch):
    def load_dataset(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(CacheError, match="could not be loaded from the hub: ConnectionError"):
        load_problems("org/mbpp", "train")


@pytest.mark.parametrize("template", ["docstring", "signature"])
def test_prompt_and_completion_are_a_program_that_passes_its_tests(template):
    for problem in load_problems(str(EXAMPLES), "train"):
        program = "".join(TEMPLATES[template](problem))
        scope: dict = {}
        exec(program + "\n" + "\n".join(problem.test_list), scope)
        assert problem.text in program


@pytest.mark.parametrize(
    ("code", "prompt", "body"),
    [
        ("def f(x):\n\treturn x", 'def f(x):\n\t"""Say it."""\n', "\treturn x"),
        ("def f(x): return x", 'def f(x):\n    """Say it."""\n', "    return x"),
        (
            "import re\ndef g():\n  return 1\ndef f(\n  x,\n):\n  # why\n  return x",
            'import re\ndef g():\n  return 1\ndef f(\n  x,\n):\n  """Say it."""\n',
            "  # why\n  return x",
        ),
        (
            "def f(x):\n#no indent\n return x",
            'def f(x):\n """Say it."""\n',
            "#no indent\n return x",
        ),
    ],
)
def test_signature_splits_below_the_tested_function(code, prompt, body):
    assert TEMPLATES["signature"](problem_of(code)) == (prompt.removesuffix("\n"), f"\n{body}")
    ast.parse(prompt + body)


def test_a_signature_ends_where_a_token_of_its_text_does():
    """A teacher that is asked behind a lone line end expects no indentation any more."""
    merges = [("Ċ", "Ġ"), ("ĊĠ", "Ġ"), ("ĊĠĠ", "Ġ")]  # as GPT-2's and its successors' begin lines
    letters = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    joined = {"".join(pair): len(letters) + i for i, pair in enumerate(merges)}
    model = Tokenizer(models.BPE(vocab={**letters, **joined}, merges=merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    prompt, completion = TEMPLATES["signature"](problem_of("def f(x):\n    return x"))
    apart = model.encode(prompt).ids + model.encode(completion).ids
    assert apart == model.encode(prompt + completion).ids
    assert model.encode(completion).tokens[0] == "ĊĠĠĠ"


def test_a_problem_that_does_not_fit_its_template_is_dropped_by_name(tokenizer):
    broken = [problem_of("def f(:"), problem_of("x = 1"), problem_of("")]
    documents, dropped = build_documents(broken, tokenizer, template="signature", max_length=512)
    assert not documents
    assert [d.reason.split(":")[0] for d in dropped] == [
        "code does not parse",
        "code defines no function that its tests call",
        "code defines no function that its tests call",
    ]
    _, dropped = build_documents(
        [problem_of("")], tokenizer, template="instruction", max_length=512
    )
    assert dropped[0].reason == "prompt or completion is empty"


def test_the_boundary_is_exact_and_the_end_is_marked(tokenizer):
    problems = load_problems(str(EXAMPLES), "train")
    documents, dropped = build_documents(
        problems, tokenizer, template="instruction", max_length=4096
    )
    assert not dropped
    for problem, document in zip(problems, documents, strict=True):
        ids = document.token_ids.tolist()
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[document.prompt_length : -1]) == problem.code
        assert tokenizer.decode(ids[: document.prompt_length]).endswith("Response:\n")


def test_long_documents_are_dropped_by_name_or_cut(tokenizer):
    problems = load_problems(str(EXAMPLES), "train")[:6]
    whole, _ = build_documents(problems, tokenizer, template="instruction", max_length=4096)
    limit = whole[2].num_tokens - 1
    kept, dropped = build_documents(problems, tokenizer, template="instruction", max_length=limit)
    assert {d.task_id for d in dropped} == {d.task_id for d in whole if d.num_tokens > limit}
    assert f"over the limit of {limit}" in dropped[0].reason
    cut, _ = build_documents(
        problems, tokenizer, template="instruction", max_length=limit, long_documents="truncate"
    )
    assert all(d.num_tokens == min(w.num_tokens, limit) for d, w in zip(cut, whole, strict=True))


def test_unknown_options_and_a_tokenizer_without_end_are_refused(tokenizer):
    with pytest.raises(CacheError, match="no template 'chat'; choose from instruction"):
        build_documents([], tokenizer, template="chat", max_length=9)
    with pytest.raises(CacheError, match="long_documents is 'wrap'"):
        build_documents([], tokenizer, template="signature", max_length=9, long_documents="wrap")
    endless = types.SimpleNamespace(eos_token_id=None, name_or_path="some/tokenizer")
    with pytest.raises(CacheError, match="some/tokenizer has no end-of-text token"):
        build_documents([], endless, template="signature", max_length=9)


@given(st.lists(st.integers(2, 600), min_size=1, max_size=60), st.integers(1, 3000))
@settings(max_examples=50, deadline=None)
def test_shards_and_batches_hold_every_document_once(lengths, size):
    documents = [types.SimpleNamespace(num_tokens=n) for n in lengths]
    shards = plan_shards("train", documents, size)
    assert [s.first_document for s in shards] == [
        sum(s.num_documents for s in shards[:i]) for i in range(len(shards))
    ]
    assert sum(s.num_documents for s in shards) == len(lengths)
    assert sum(s.num_tokens for s in shards) == sum(lengths)
    assert all(s.num_tokens >= size for s in shards[:-1])
    batches = plan_batches(documents, size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert len(batch) == 1 or padded <= size
