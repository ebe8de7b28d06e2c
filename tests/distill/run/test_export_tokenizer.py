"""A student's tokenizer prompts it as it was trained: by a call, by a pipeline, by the card."""

import pytest
from transformers import AutoTokenizer, pipeline

from distill.run.card import asked_in_chat, loading_code
from distill.run.export_tokenizer import export_tokenizer
from tests.support.tiny_models import gpt2
from tests.support.tokenizers import byte_level, sentencepiece

BEGINNING = 0
PROMPT = "def add(a, b):"


@pytest.mark.parametrize("prefix", [[], [BEGINNING]], ids=["bare", "begun"])
@pytest.mark.parametrize("adds", ["", "b", "be"])
@pytest.mark.parametrize("family", [byte_level, sentencepiece])
def test_a_text_gets_what_training_put_before_it_and_nothing_else(family, adds, prefix, tmp_path):
    made = family(adds)
    prefix = [made.bos_token_id for _ in prefix]
    made.save_pretrained(tmp_path / "of-the-cache")
    export_tokenizer(
        tmp_path / "of-the-cache", tmp_path / "run", prefix_ids=prefix, num_positions=512
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    bare = made(PROMPT, add_special_tokens=False)["input_ids"]
    assert tokenizer(PROMPT)["input_ids"] == [*prefix, *bare]
    assert tokenizer(PROMPT, add_special_tokens=False)["input_ids"] == bare
    assert tokenizer.model_max_length == 512


def test_pipeline_and_card_prompt_like_training(tmp_path, monkeypatch):
    byte_level("be").save_pretrained(tmp_path / "of-the-cache")
    folder = tmp_path / "run"
    export_tokenizer(tmp_path / "of-the-cache", folder, prefix_ids=[BEGINNING], num_positions=512)
    gpt2(vocab_size=400).save_pretrained(folder)
    trained_on = [BEGINNING, *byte_level()(PROMPT)["input_ids"]]

    asked = []
    generate = type(gpt2()).generate

    def remember(self, ids=None, **options):
        asked.append((options.get("input_ids") if ids is None else ids)[0].tolist())
        return generate(self, ids, **options)

    monkeypatch.setattr("transformers.GPT2LMHeadModel.generate", remember)
    pipeline("text-generation", model=str(folder))(PROMPT, max_new_tokens=1)
    monkeypatch.chdir(folder)
    exec(loading_code(), {})
    assert asked == [trained_on, trained_on]


def test_the_card_of_a_student_of_chats_asks_in_the_chat_template(tmp_path, monkeypatch):
    made = byte_level("")
    made.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    made.save_pretrained(tmp_path / "of-the-cache")
    folder = tmp_path / "run"
    export_tokenizer(tmp_path / "of-the-cache", folder, prefix_ids=[], num_positions=512)
    gpt2(vocab_size=400).save_pretrained(folder)
    asked = []
    generate = type(gpt2()).generate

    def remember(self, ids, **options):
        asked.append(ids[0].tolist())
        return generate(self, ids, **{**options, "max_new_tokens": 1})

    monkeypatch.setattr("transformers.GPT2LMHeadModel.generate", remember)
    monkeypatch.chdir(folder)
    identity = {"texts": {"chat_template_sha256": "ab"}}
    exec(loading_code(asked_in_chat(identity)), {})
    text = "[user]Write a function that adds two numbers.[assistant]"
    assert asked == [made(text, add_special_tokens=False)["input_ids"]]
    assert not asked_in_chat({"texts": {"chat_template_sha256": ""}}) and not asked_in_chat({})
