from dataclasses import replace

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from cache.building.config import BuildConfig
from cache.building.job import first_documents
from cache.data.problems import load_problems
from cache.data.templates import signature
from evaluation.errors import EvaluationError
from evaluation.lessons.ask import code_of, form_of, questions_of, read_rows
from tests.support.scripted_writer import GOLD, PROBLEMS, lessons_config, save_problems

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_teacher):
    return AutoTokenizer.from_pretrained(tiny_teacher)


@pytest.fixture
def chat_tokenizer(tokenizer):
    tokenizer.add_tokens(
        [AddedToken(f"<|{n}|>", special=True) for n in ("user", "assistant", "end")]
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def asked(config, tokenizer):
    form = form_of(config, tokenizer)
    questions, skipped = questions_of(read_rows(config), form, tokenizer)
    return form, {q.row.task_id: tokenizer.decode(q.prompt_ids) for q in questions}, skipped


def test_a_chat_teacher_reads_what_its_documents_begin_with(tmp_path, tiny_teacher, chat_tokenizer):
    config = lessons_config(tmp_path, tiny_teacher)
    form, prompts, _ = asked(config, chat_tokenizer)
    assert form.template == "chat" and form.stop[0] == "\n```"
    build = BuildConfig(
        out=tmp_path / "c", dataset=config.dataset, template="chat", splits=("train",)
    )
    with first_documents(build, chat_tokenizer) as job:
        for document in job.documents["train"]:
            text = chat_tokenizer.decode(document.token_ids)
            assert text.startswith(prompts[document.task_id])
            rest = text.removeprefix(prompts[document.task_id])
            assert rest == f"{GOLD[f'MBPP/{document.task_id}']}\n```<|end|>\n"


def test_a_free_answer_is_begun_by_the_template_alone(tmp_path, tiny_teacher, chat_tokenizer):
    form, prompts, _ = asked(lessons_config(tmp_path, tiny_teacher, answer="free"), chat_tokenizer)
    assert prompts[601].endswith("<|assistant|>") and form.stop == () and form.is_free


@pytest.mark.parametrize("count", [1, 2])
def test_a_base_teacher_reads_solved_problems_but_never_the_one_asked(
    tmp_path, tiny_teacher, tokenizer, count
):
    form, prompts, _ = asked(lessons_config(tmp_path, tiny_teacher, examples=count), tokenizer)
    assert form.template == "instruction" and "\nInstruction:" in form.stop
    for row in PROBLEMS:
        prompt = prompts[row["task_id"]]
        assert prompt.endswith("\n\nResponse:\n") and prompt.count("Response:\n") == count + 1
        assert GOLD[f"MBPP/{row['task_id']}"] not in prompt
        assert sum(code in prompt for code in GOLD.values()) == count
        assert prompt.count(row["text"]) == 1


def test_examples_are_those_that_the_dataset_keeps_for_prompts(tmp_path, tiny_teacher, tokenizer):
    kept = {**PROBLEMS[0], "task_id": 2, "text": "Write something else."}
    save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, kept])
    _, prompts, _ = asked(lessons_config(tmp_path, tiny_teacher), tokenizer)
    assert all(
        prompt.startswith("Instruction:\nWrite something else.") for prompt in prompts.values()
    )


def test_a_student_is_asked_as_its_documents_are(tmp_path, tiny_teacher, tokenizer):
    form, prompts, _ = asked(lessons_config(tmp_path, tiny_teacher, writer="student"), tokenizer)
    assert form.num_examples == 0 and prompts[601].startswith(
        "Instruction:\nWrite a function to add"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "chat"}, "has no chat template. Give another --template"),
        ({"answer": "free"}, "answer is free, which belongs to a chat template"),
        ({"limit": 1, "splits": ("validation",)}, "no problems in split 'validation'"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, tiny_teacher, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        asked(lessons_config(tmp_path, tiny_teacher, **options), tokenizer)


def test_examples_have_no_place_in_a_chat(tmp_path, tiny_teacher, chat_tokenizer):
    with pytest.raises(EvaluationError, match="a chat template has no place for them"):
        asked(lessons_config(tmp_path, tiny_teacher, examples=1), chat_tokenizer)


def test_problems_that_cannot_be_asked_or_judged_are_named(tmp_path, tiny_teacher, chat_tokenizer):
    marked = {**PROBLEMS[0], "text": "What does <|endoftext|> mean?"}
    idle = {**PROBLEMS[1], "test_list": ["assert 1 == 1"]}
    save_problems(tmp_path / "problems.jsonl", [marked, idle, PROBLEMS[2]])
    _, prompts, skipped = asked(lessons_config(tmp_path, tiny_teacher), chat_tokenizer)
    assert list(prompts) == [603]
    assert "writes out '<|endoftext|>'" in skipped[601]
    assert skipped[602].startswith("the tests call no function of the solution")


def test_what_models_wrote_is_not_asked_again(tmp_path, tiny_teacher):
    further = {**PROBLEMS[0], "task_id": 601_000_000_001, "problem_id": 601, "origin": "teacher"}
    path = save_problems(tmp_path / "problems.jsonl", [*PROBLEMS, further])
    assert len(load_problems(str(path), "train")) == 4
    rows = read_rows(lessons_config(tmp_path, tiny_teacher))
    assert [row.task_id for row in rows] == [601, 602, 603]
    save_problems(path, [further])
    with pytest.raises(EvaluationError, match="holds further solutions alone"):
        read_rows(lessons_config(tmp_path, tiny_teacher))


def test_problems_without_tests_are_refused_unless_all_is_kept(tmp_path, tiny_teacher):
    save_problems(tmp_path / "problems.jsonl", [PROBLEMS[0], {**PROBLEMS[1], "test_list": []}])
    with pytest.raises(
        EvaluationError, match="1 of 2 problems .* have no tests, such as task_id 602"
    ):
        read_rows(lessons_config(tmp_path, tiny_teacher))
    assert len(read_rows(lessons_config(tmp_path, tiny_teacher, keep="all"))) == 2


@pytest.mark.parametrize(
    ("answer", "text", "code"),
    [
        ("fence", "\n  \ndef f():\r\n    return 1  \n\n", "def f():\n    return 1"),
        ("fence", "So:\n```python\ndef f():\n    return 1\n```\nDone.", "def f():\n    return 1"),
        ("free", "Sure, here:\n\ndef f():\n    return 1\n\nIt works.", "def f():\n    return 1"),
        ("free", "```\nx = 1\n```\nand\n```python\ndef f():\n    return 1\n```",
         "def f():\n    return 1"),
        ("fence", "    indented = 1", "    indented = 1"),
    ],
)  # fmt: skip
def test_code_is_taken_out_of_answers(tmp_path, tiny_teacher, chat_tokenizer, answer, text, code):
    config = lessons_config(tmp_path, tiny_teacher, answer=answer)
    form = form_of(config, chat_tokenizer)
    questions, _ = questions_of(read_rows(config), form, chat_tokenizer)
    named = replace(questions[0], problem=replace(questions[0].problem, entry_point="f"))
    assert code_of(text, form, named) == code


def test_an_answer_to_a_signature_is_its_body_and_becomes_the_document_that_was_begun(
    tmp_path, tiny_teacher, tokenizer
):
    helper = "import math\n\n\ndef half(x):\n    return x / 2\n\n\n"
    own = {**PROBLEMS[0], "code": f"{helper}def add_one(x):\n    return x + 1"}
    save_problems(tmp_path / "problems.jsonl", [own])
    config = lessons_config(tmp_path, tiny_teacher, template="signature", examples=0)
    form = form_of(config, tokenizer)
    (question,), _ = questions_of(read_rows(config), form, tokenizer)
    prompt = tokenizer.decode(question.prompt_ids)
    assert prompt == f'{helper}def add_one(x):\n    """{own["text"]}"""' and "\ndef" in form.stop
    code = code_of("\n    y = x\n    return y + 1\n", form, question)
    assert code == f"{helper}def add_one(x):\n    y = x\n    return y + 1"
    lesson = replace(question.row, code=code)
    assert signature(lesson) == (prompt, "\n    y = x\n    return y + 1")
