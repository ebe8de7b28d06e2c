"""From a teacher to a folder that trains: what is in it, what is refused, what comes out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, pipeline

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.cutting.init_student import init_student
from distill.errors import DistillError
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.cut import CutConfig
from distill.settings.origin import read_origin
from tests.support.command_line import run
from tests.support.distill_fakes import small_recipe
from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    save_teacher(folder, num_layers=5)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory, teacher):
    out = tmp_path_factory.mktemp("cache") / "c"
    build_cache(
        BuildConfig(
            out=out, teacher=str(teacher), dataset=str(EXAMPLES), max_length=512, limit=6,
            batch_tokens=2048, targets=TargetFormat(top_k=8, tail="hidden"), dtype="fp32",
        )
    )  # fmt: skip
    return out


def cut(teacher, out, **options):
    return init_student(CutConfig(teacher=str(teacher), out=out, dtype="fp32", **options))


def test_a_teacher_whose_students_could_not_train_is_refused(teacher, tmp_path):
    sizes = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
    config = Gemma2Config(**sizes, num_hidden_layers=2, final_logit_softcapping=5.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "t")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "t")
    with pytest.raises(DistillError, match="Gemma2ForCausalLM has final_logit_softcapping=5.0"):
        cut(tmp_path / "t", tmp_path / "s", num_layers=1)
    assert not (tmp_path / "s").exists()


@torch.no_grad()
def kl_of_folder(teacher, folder, texts) -> float:
    """KL(teacher ‖ student) over texts in float64, the student loaded with plain transformers."""
    student = AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        p, q = (
            model(input_ids=text.unsqueeze(0), use_cache=False).logits[0].double().softmax(-1)
            for model in (teacher, student)
        )
        rows.append((p * (p / q).log()).sum(-1))
    return float(torch.cat(rows).mean())


def test_a_reconstructed_student_is_measured_on_what_it_was_not_fitted_to(teacher, cache, tmp_path):
    """Six documents: the first for the KL, the others to fit on."""
    with CacheReader(cache) as reader:
        texts = [torch.from_numpy(reader.read("train", [i]).token_ids) for i in range(6)]
    num_first, num_more = len(texts[0]), sum(map(len, texts[1:]))
    options = {"num_layers": 3, "cache": cache, "num_tokens": num_first}
    bare = cut(teacher, tmp_path / "bare", **options)
    found = cut(teacher, tmp_path / "s", reconstruct=100_000, **options)
    assert read_origin(tmp_path / "s") == found.origin
    assert (bare.origin.reconstructed_on, found.origin.reconstructed_on) == (None, num_more)
    whole = AutoModelForCausalLM.from_pretrained(teacher).eval()
    expected = kl_of_folder(whole, tmp_path / "s", texts[:1])
    assert found.origin.kl_before_training == pytest.approx(expected, rel=1e-4)
    assert expected < 0.9 * bare.origin.kl_before_training
    code, printed = run(
        "init-student", "--teacher", teacher, "--layers", 3, "--cache", cache,
        "--num-tokens", num_first, "--reconstruct", 100_000, "--out", tmp_path / "t",
    )  # fmt: skip
    assert code == 0 and f"{num_more:,} tokens" in printed


def test_layers_are_chosen_among_those_that_are_named(teacher, cache, tmp_path):
    """`kl` in two steps comes to what one descent finds, and `uniform` keeps the ends of them."""
    options = {"choose": "kl", "cache": cache, "num_tokens": 90}
    at_once = cut(teacher, tmp_path / "at once", num_layers=2, **options).origin
    four = cut(teacher, tmp_path / "four", num_layers=4, **options).origin.kept_layers
    two = cut(teacher, tmp_path / "two", num_layers=2, kept=four, **options).origin
    assert (two.kept_layers, two.chosen_by) == (at_once.kept_layers, "kl")
    assert two.kl_before_training == at_once.kl_before_training
    ends = cut(teacher, tmp_path / "ends", num_layers=2, kept=(1, 2, 4)).origin
    assert (ends.kept_layers, ends.chosen_by, ends.teacher_layers) == ((1, 4), "uniform", 5)


def test_what_cannot_be_reconstructed_is_refused(teacher, cache, tmp_path):
    with pytest.raises(DistillError, match="--reconstruct fits on documents"):
        cut(teacher, tmp_path / "s", num_layers=3, reconstruct=10)
    with pytest.raises(DistillError, match="reconstruct is -1"):
        cut(teacher, tmp_path / "s", num_layers=3, cache=cache, reconstruct=-1)
    with pytest.raises(DistillError, match="0 documents are left to fit on"):
        cut(teacher, tmp_path / "s", num_layers=3, cache=cache, reconstruct=10, num_tokens=100_000)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("choose", ["uniform", "influence", "kl"])
def test_a_cut_student_says_where_it_comes_from_and_what_the_cut_costs(
    choose, teacher, cache, tmp_path
):
    result = cut(teacher, tmp_path / "s", num_layers=3, choose=choose, cache=cache, num_tokens=90)
    saved = json.loads((tmp_path / "s" / "student.json").read_text())
    with CacheReader(cache) as reader:
        assert saved["teacher_sha256"] == reader.identity.teacher_sha256
        texts, left = [], 90
        for index in range(2):
            texts.append(torch.from_numpy(reader.read("train", [index]).token_ids[:left]))
            left -= len(texts[-1])
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    kept = saved["kept_layers"]
    assert saved["chosen_by"] == choose and len(kept) == 3 and saved["teacher_layers"] == 5
    assert kept == [0, 2, 4] or choose != "uniform"
    expected = kl_of_folder(model, tmp_path / "s", [text for text in texts if len(text)])
    assert saved["kl_before_training"] == pytest.approx(expected, rel=1e-4)
    assert saved["measured_on"] == str(cache)
    assert (
        result.num_parameters
        == AutoModelForCausalLM.from_pretrained(tmp_path / "s").num_parameters()
    )


def test_a_narrow_student_says_what_was_kept_and_reads_back(teacher, cache, tmp_path):
    result = cut(
        teacher, tmp_path / "s", num_layers=4, feed_forward=24, kv_heads=1, cache=cache,
        num_tokens=90,
    )  # fmt: skip
    origin = read_origin(tmp_path / "s")
    assert origin == result.origin and len(origin.kept_layers) == 4
    assert (origin.teacher_feed_forward, origin.feed_forward) == (64, 24)
    assert origin.teacher_kv_heads == 2 and set(origin.kept_kv_heads) <= {(0,), (1,)}
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    config = student.config
    assert (config.intermediate_size, config.num_attention_heads) == (24, 2)
    assert (config.num_key_value_heads, config.head_dim, config.hidden_size) == (1, 8, 32)
    assert student.num_parameters() == result.num_parameters
    with CacheReader(cache) as reader:
        ids = torch.from_numpy(reader.read("train", [0]).token_ids[:90])
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    expected = kl_of_folder(model, tmp_path / "s", [ids])
    assert len(ids) == 90 and origin.kl_before_training == pytest.approx(expected, rel=1e-4)


def test_a_dataset_is_measured_on_as_its_cache_is(teacher, cache, tmp_path):
    own = cut(teacher, tmp_path / "a", num_layers=3, choose="kl", cache=cache, num_tokens=200)
    other = cut(
        teacher, tmp_path / "b", num_layers=3, choose="kl", dataset=str(EXAMPLES), num_tokens=200
    )
    assert other.origin.measured_on == str(EXAMPLES)
    assert replace(own.origin, measured_on=str(EXAMPLES)) == other.origin


def test_any_texts_can_be_measured_on(teacher, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"body": "x = 1"}\n{"body": ""}\n{"body": "y"}\n')
    done = []
    config = CutConfig(
        teacher=str(teacher), out=tmp_path / "s", num_layers=3, choose="influence", dtype="fp32",
        dataset=str(tmp_path / "texts.jsonl"), text_field="body",
    )  # fmt: skip
    result = init_student(config, lambda *count: done.append(count))
    assert done == [(1, 2), (2, 2)]
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    texts = [torch.tensor([*tokenizer(text)["input_ids"], 0]) for text in ("x = 1", "y")]
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    expected = kl_of_folder(model, tmp_path / "s", texts)
    assert result.origin.kl_before_training == pytest.approx(expected, rel=1e-4)


def test_a_cut_student_trains_and_writes_text(teacher, cache, tmp_path):
    cut(teacher, tmp_path / "s", kept=(0, 1, 4))
    recipe = small_recipe(student=str(tmp_path / "s"), epochs=1, lr=1e-3, batching="packed")
    result = train(TrainConfig(cache=cache, recipe=recipe, out=tmp_path / "run", wandb="disabled"))
    before = train(
        TrainConfig(
            cache=cache, out=tmp_path / "still", wandb="disabled",
            recipe=small_recipe(student=str(tmp_path / "s"), epochs=1, lr=1e-9),
        )
    )  # fmt: skip
    assert result.losses["val_loss"] < before.losses["val_loss"]
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert student.config.num_hidden_layers == 3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    write = pipeline("text-generation", model=student, tokenizer=tokenizer)
    written = write("def f(", max_new_tokens=3, return_full_text=False)
    assert isinstance(written[0]["generated_text"], str)


def test_training_refuses_a_student_of_another_teacher(teacher, cache, tmp_path):
    save_teacher(tmp_path / "other", seed=5, num_layers=3)
    cut(tmp_path / "other", tmp_path / "s", num_layers=2)
    config = TrainConfig(
        cache=cache, recipe=small_recipe(student=str(tmp_path / "s")), out=tmp_path / "run"
    )
    with pytest.raises(DistillError, match=r"was cut from .*other, but the cache at"):
        train(config)
    with pytest.raises(DistillError, match="was built with another teacher"):
        cut(tmp_path / "other", tmp_path / "t", num_layers=2, cache=cache)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Nothing is cut. Give --layers or --keep, or a width"),
        ({"num_layers": 3, "kept": (0, 1)}, "3 layers were asked for, but there are 2 to choose"),
        ({"num_layers": 2, "choose": "best"}, "choose is 'best'"),
        ({"num_layers": 2, "choose": "kl"}, "--choose kl chooses .* Give --cache or --dataset"),
        ({"kept": (0, 1), "choose": "kl"}, "--choose kl chooses layers: give --layers"),
        ({"feed_forward": 3}, "a width is chosen by what is measured .* Give --cache or --dataset"),
        ({"feed_forward": 3, "cache": Path(), "dataset": "d"}, "one of --cache and --dataset"),
        ({"num_layers": 2, "text_field": "text"}, "--text-field is a dataset's. Give --dataset"),
        ({"feed_forward": 65, "dataset": str(EXAMPLES)}, "65 neurons .* the teacher has 64"),
        ({"kv_heads": 3, "dataset": str(EXAMPLES)}, "3 heads of keys .* the teacher has 2"),
        ({"num_layers": 9}, "9 layers were asked for, but there are 5 to choose"),
        ({"kept": (0, 7)}, "rising numbers from 0 to 4"),
        ({"num_layers": 2, "num_tokens": 1}, "num_tokens is 1"),
    ],
)
def test_what_cannot_be_cut_is_refused_and_nothing_is_written(options, message, teacher, tmp_path):
    with pytest.raises(DistillError, match=message):
        cut(teacher, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_taken_is_refused(teacher, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(DistillError, match="is not empty. Choose another --out"):
        cut(teacher, tmp_path, num_layers=2)


def test_the_command_prints_what_was_kept(teacher, cache, tmp_path):
    code, output = run(
        "init-student", "--teacher", teacher, "--keep", "0,3,4", "--cache", cache,
        "--num-tokens", 60, "--out", tmp_path / "s",
    )  # fmt: skip
    assert code == 0, output
    assert "3 of 5: 0, 3, 4" in output and "KL before training" in output
    code, output = run(
        "init-student", "--teacher", teacher, "--feed-forward", "32", "--kv-heads", "1",
        "--dataset", EXAMPLES, "--num-tokens", 60, "--out", tmp_path / "n",
    )  # fmt: skip
    assert code == 0, output
    for words in ("all 5", "32 of 64 a layer", "1 of 2 a layer"):
        assert words in output
    code, output = run(
        "init-student", "--teacher", teacher, "--keep", "0;3", "--out", tmp_path / "t"
    )
    assert code == 2 and "is not a list like 0,2,5" in output
    shutil.rmtree(tmp_path / "s")
