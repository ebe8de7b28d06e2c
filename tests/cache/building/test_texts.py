"""From a command to tokens: beginnings of texts, chat templates, supervised data, isolated texts,
and the students and their tokenizers that come of it."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.data.corpus import Corpus
from cache.errors import CacheError, CacheWarning
from cache.reading.reader import CacheReader
from cache.storage.identity import identity_from_json, require_same_identity
from cache.targets.format import TargetFormat
from cache.tools.verify import verify_cache
from distill.batches.batch import collate
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import Recipe
from evaluation.generation.tokens import encode_prompt
from tests.support.command_line import run
from tests.support.paths import EXAMPLES
from tests.support.tokenizers import CHATML, byte_level, line_ends_joined

MASS = TargetFormat(top_k=8, tail="mass")


def teacher_with(tokenizer, folder, rows_beyond=0):
    """A tiny Llama of the tokenizer's vocabulary, and rows of its head that are no token's."""
    config = LlamaConfig(
        vocab_size=len(tokenizer) + rows_beyond, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        bos_token_id=0, eos_token_id=1, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["b", "be", ""])
def begun(request, tmp_path_factory):
    """A cache of a teacher whose tokenizer adds a beginning, an end, both or nothing."""
    folder = tmp_path_factory.mktemp(f"begun{request.param}")
    teacher_with(byte_level(request.param), folder / "teacher")
    build_cache(
        BuildConfig(
            out=folder / "cache", teacher=str(folder / "teacher"), dataset=str(EXAMPLES),
            targets=MASS, limit=6,
        )
    )  # fmt: skip
    return folder, [0] if "b" in request.param else []


def test_every_document_begins_as_the_teachers_tokenizer_begins_texts(begun):
    folder, prefix = begun
    with CacheReader(folder / "cache") as reader:
        assert list(reader.identity.texts.prefix_ids) == prefix
        for index in range(3):
            ids = reader.read("train", [index]).token_ids.tolist()
            assert ids[: len(prefix)] == prefix and ids.count(0) == len(prefix)
            assert ids[-1] == 1 and ids.count(1) == 1


def test_rows_are_the_models_own_from_the_beginning_of_sequence_on(begun):
    folder, _ = begun
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher").eval()
    with CacheReader(folder / "cache") as reader:
        documents = reader.read("train", [1])
        with torch.no_grad():
            ids = torch.from_numpy(documents.token_ids).unsqueeze(0)
            expected = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    found = documents.targets.topk_logprobs
    torch.testing.assert_close(found, expected.topk(8).values, atol=0.02, rtol=0.01)


def test_a_students_tokenizer_begins_prompts_as_training_began_texts(begun, tmp_path):
    folder, prefix = begun
    recipe = Recipe(name="s", student="1x16x1", temperature=2.0, alpha=0.5, epochs=1)
    train(TrainConfig(cache=folder / "cache", recipe=recipe, out=tmp_path / "run"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    prompt = "def add(a, b):\n"
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer(prompt)["input_ids"] == [*prefix, *bare]  # as the model card says to
    assert list(encode_prompt(tokenizer, prompt)) == [*prefix, *bare]  # as evaluation asks
    assert tokenizer.model_max_length == 512


def test_without_a_beginning_where_that_is_asked_for(tmp_path):
    teacher = teacher_with(byte_level("b"), tmp_path / "teacher")
    config = BuildConfig(
        out=tmp_path / "c", teacher=str(teacher), dataset=str(EXAMPLES), targets=MASS, limit=2,
        bos="never", splits=("train",),
    )  # fmt: skip
    build_cache(config)
    with CacheReader(tmp_path / "c") as reader:
        assert reader.identity.texts.prefix_ids == ()
        assert reader.read("train", [0]).token_ids[0] != 0
    other = BuildConfig(**{**vars(config), "bos": "auto"})
    with pytest.raises(CacheError, match=r"texts.prefix_ids: \[\] there, \[0\] asked for|prefix"):
        build_cache(other)


@pytest.mark.parametrize(("make", "joined"), [(byte_level, False), (line_ends_joined, True)])
def test_a_cache_says_where_the_line_end_before_a_body_stands(tmp_path, make, joined):
    config = BuildConfig(
        out=tmp_path / "c", teacher=str(teacher_with(make(), tmp_path / "teacher")), limit=3,
        dataset=str(EXAMPLES), template="signature", targets=MASS, splits=("train",),
    )  # fmt: skip
    build_cache(config)
    written = json.loads((tmp_path / "c/plan.json").read_text())["identity"]
    identity = identity_from_json(written)
    assert identity.texts.line_end_in_prompt == joined
    with CacheReader(tmp_path / "c") as reader:
        documents = reader.read("train", [0])
        prompt = documents.token_ids[: documents.prompt_lengths[0]]
        read = AutoTokenizer.from_pretrained(reader.tokenizer_path).decode(prompt)
    assert read.endswith('"""\n' if joined else '"""')
    del written["texts"]["line_end_in_prompt"]  # as before this was looked at
    older = identity_from_json(written)
    assert not older.texts.line_end_in_prompt
    assert (older.sha256 == identity.sha256) == (not joined)
    if joined:
        with pytest.raises(CacheError, match="line_end_in_prompt(.|\n)*build the cache anew"):
            require_same_identity(older, identity, "here")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A teacher with a chat template."""
    folder = tmp_path_factory.mktemp("chatty")
    return teacher_with(byte_level("", CHATML), folder / "teacher")


def test_problems_through_the_teachers_own_template(chatty, tmp_path):
    code, output = run(
        "cache-teacher", "--teacher", chatty, "--dataset", EXAMPLES, "--out", tmp_path / "c",
        "--template", "chat", "--limit", 3, "--tail", "mass",
    )  # fmt: skip
    assert code == 0, output
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    with CacheReader(tmp_path / "c") as reader:
        assert len(reader.identity.texts.chat_template_sha256) == 64
        documents = reader.read("train", [0])
        ids = documents.token_ids.tolist()
        answer = [t for t, own in zip(ids, documents.by_assistant, strict=True) if own]
        problem = json.loads(EXAMPLES.read_text().splitlines()[0])
        assert tokenizer.decode(ids).startswith("<|im_start|>user\n")
        assert tokenizer.decode(answer).startswith("```python\n")
        assert tokenizer.decode(answer).endswith("```<|im_end|>")
        assert problem["task_id"] is not None
    assert verify_cache(tmp_path / "c") == []


def test_another_template_than_the_teachers_own_is_spoken_of(chatty, tmp_path):
    config = BuildConfig(
        out=tmp_path / "c", teacher=str(chatty), dataset=str(EXAMPLES), targets=MASS, limit=2,
        splits=("train",),
    )  # fmt: skip
    with pytest.warns(CacheWarning, match="has a chat template, and the template 'instruction'"):
        build_cache(config)


ROWS = [
    {"messages": [
        {"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"It is {i}."},
        {"role": "user", "content": "Again?"}, {"role": "assistant", "content": f"Still {i}!"},
    ]} for i in range(12)
]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "streamed"])
def test_conversations_from_a_file_are_cached_and_trained_on_the_assistants_words(
    chatty, tmp_path, kind
):
    path = tmp_path / f"rows.{'parquet' if kind == 'parquet' else 'jsonl'}"
    if kind == "parquet":
        import datasets

        datasets.Dataset.from_list(ROWS).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    words = ["--streaming"] if kind == "streamed" else []
    code, output = run(
        "cache-teacher", "--teacher", chatty, "--sft", "--dataset", path, "--out", tmp_path / "c",
        "--validation-every", 4, "--tail", "mass", *words,
    )  # fmt: skip
    assert code == 0, output
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    with CacheReader(tmp_path / "c") as reader:
        assert (reader.num_documents("train"), reader.num_documents("validation")) == (9, 3)
        documents = reader.read("validation", [0])
        batch = collate(documents, pad_id=0, loss_on="assistant")
        assert tokenizer.decode(batch.labels) == "It is 3.<|im_end|>Still 3!<|im_end|>"
        completion = collate(documents, pad_id=0, loss_on="completion")
        assert tokenizer.decode(completion.labels).startswith(
            "It is 3.<|im_end|>\n<|im_start|>user"
        )
        assert completion.num_rows < collate(documents, pad_id=0).num_rows
    recipe = Recipe(
        name="s", student="1x16x1", temperature=2.0, alpha=0.5, epochs=1, loss_on="assistant"
    )
    result = train(TrainConfig(cache=tmp_path / "c", recipe=recipe, out=tmp_path / "run"))
    assert np.isfinite(list(result.losses.values())).all()


def test_pairs_of_texts_as_they_stand(chatty, tmp_path):
    rows = [{"prompt": f"# {i}\n", "completion": f"x = {i}"} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, output = run(
        "cache-teacher", "--teacher", chatty, "--sft", "--template", "pair", "--dataset",
        tmp_path / "rows.jsonl", "--out", tmp_path / "c", "--tail", "mass",
    )  # fmt: skip
    assert code == 0, output
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    with CacheReader(tmp_path / "c") as reader:
        documents = reader.read("train", [2])
        assert tokenizer.decode(documents.token_ids.tolist()) == "# 2\nx = 2</s>"
        batch = collate(documents, pad_id=0, loss_on="completion")
        assert tokenizer.decode(batch.labels) == "x = 2</s>"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sft"], "--sft is given; name one dataset with --dataset"),
        (["--sft", "--dataset", "x.jsonl", "--text-field", "t"], "takes every row as a document"),
        (["--sft", "--dataset", "x.jsonl", "--template", "docstring"], "--template chat or pair"),
        (["--template", "pair"], "The template 'pair' is that of --sft"),
        (["--isolate"], "only a corpus is packed"),
        (["--sft", "--dataset", "absent.jsonl"], "There is no file absent.jsonl"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(chatty, tmp_path, words, sentence):
    code, output = run("cache-teacher", "--teacher", chatty, "--out", tmp_path / "c", *words)
    assert code == 1 and sentence in " ".join(output.split()), output


def corpus_cache(folder, name, texts, chatty, isolate):
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps({"content": text}) for text in texts))
    config = BuildConfig(
        out=folder / name, teacher=str(chatty), splits=("train",), max_length=64, isolate=isolate,
        corpus=Corpus(sources=(str(path),), text_field="content"), targets=MASS, batch_tokens=256,
    )  # fmt: skip
    build_cache(config)
    return folder / name


@pytest.mark.parametrize("isolate", [True, False])
def test_isolated_texts_have_rows_of_their_own_to_the_bit(chatty, tmp_path, isolate):
    texts = ["a = 3\n", "y = 2\n", "z = 3\n", "w = 4\n"]
    changed = ["k = 2\n", *texts[1:]]
    reads = []
    for name, some in (("one", texts), ("other", changed)):
        reader = CacheReader(corpus_cache(tmp_path, name, some, chatty, isolate))
        reads.append(reader.read("train", [0]))
        assert reads[-1].isolated == isolate and reads[-1].begins_text.sum() == 4
    starts = [np.flatnonzero(read.begins_text) for read in reads]
    np.testing.assert_array_equal(*starts)
    second = int(starts[0][1])
    rows = slice(second, None)
    same = torch.equal(reads[0].targets.topk_logprobs[rows], reads[1].targets.topk_logprobs[rows])
    assert same == isolate


def test_a_student_reads_isolated_texts_as_the_teacher_did(chatty, tmp_path):
    texts = ["x = 1\n", "y = 2\n", "z = 3\n", "w = 4\n"]
    reader = CacheReader(corpus_cache(tmp_path, "c", texts, chatty, True))
    documents = reader.read("train", [0])
    batch = collate(documents, pad_id=0)
    starts = np.flatnonzero(documents.begins_text)
    lengths = np.diff([*starts, len(documents.token_ids)])
    assert batch.position_ids.tolist() == [[p for n in lengths for p in range(n)]]
    # The first token of a text has no context: it is nobody's label.
    assert batch.num_rows == len(documents.token_ids) - 4
    model = AutoModelForCausalLM.from_pretrained(chatty).eval()
    with torch.no_grad():
        states = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits[0]
    found = states.log_softmax(-1).flatten(0, 0)[batch.places]
    torch.testing.assert_close(
        found.topk(8).values, batch.targets.topk_logprobs, atol=0.02, rtol=0.01
    )


def test_rows_of_the_head_beyond_the_tokenizer_are_named_and_measured(tmp_path):
    tokenizer = byte_level("b")
    teacher = teacher_with(tokenizer, tmp_path / "teacher", rows_beyond=10)
    config = BuildConfig(
        out=tmp_path / "c", teacher=str(teacher), dataset=str(EXAMPLES), targets=MASS, limit=2,
        splits=("train",),
    )  # fmt: skip
    with pytest.warns(CacheWarning, match="no token|rows beyond") as told:
        build_cache(config)
    size = len(tokenizer)
    shown = " ".join(run("cache", "inspect", tmp_path / "c")[1].split())
    assert "rows beyond" in shown and "texts begin with the ids 0" in shown
    with CacheReader(tmp_path / "c") as reader:
        assert (reader.identity.num_tokens, reader.vocab_size) == (size, size + 10)
        documents = reader.read("train", [0, 1])
    model = AutoModelForCausalLM.from_pretrained(teacher)
    beyond = []
    for ids in np.split(documents.token_ids, documents.token_offsets[1:-1]):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids).unsqueeze(0)).logits[0, :-1]
        beyond.append(logits.double().softmax(-1)[:, size:].sum(-1))
    words = next(str(w.message) for w in told if "rows beyond" in str(w.message))
    said = float(words.split("the teacher gives ")[1].split(" ")[0])
    assert said == pytest.approx(float(torch.cat(beyond).mean()), rel=0.05)
    target = documents.targets.at(2.0)
    named = torch.zeros(len(target.ids), size + 10).scatter_(1, target.ids, 1.0).bool()
    probabilities = target.to_dense(size + 10)
    assert (probabilities[:, size:][~named[:, size:]] == 0).all()
    assert (probabilities[:, :size] > 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(probabilities)))


@pytest.mark.parametrize("template", ["chat", "pair"])
def test_more_conversations_are_added_and_numbered_on(chatty, tmp_path, template):
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(5)]
    for name, some in (("all", rows), ("first", rows[:3]), ("more", rows[3:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    words = ["--tail", "mass", "--sft", "--template", template]
    for name in ("all", "first"):
        build = ["cache-teacher", "--teacher", chatty, "--dataset", tmp_path / f"{name}.jsonl"]
        code, output = run(*build, "--out", tmp_path / name, *words)
        assert code == 0, output
    extend = ["cache", "extend", tmp_path / "first", "--split", "train"]
    code, output = run(*extend)
    assert code == 1 and "Name the rows to add with --sft" in " ".join(output.split())
    code, output = run(*extend, "--sft", "--dataset", tmp_path / "first.jsonl")
    assert code == 1 and "holds train of" in output
    code, output = run(*extend, "--sft", "--dataset", tmp_path / "more.jsonl")
    assert code == 0, output
    assert verify_cache(tmp_path / "first") == []
    with CacheReader(tmp_path / "first") as added, CacheReader(tmp_path / "all") as whole:
        found, expected = (reader.read("train", range(5)) for reader in (added, whole))
        assert found.task_ids.tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
        np.testing.assert_array_equal(found.marks, expected.marks)
        assert torch.equal(found.targets.topk_ids, expected.targets.topk_ids)
