"""From a teacher to a folder that trains: what is in it, what is refused, what comes out."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, pipeline

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.reading.reader import CacheReader
from cache.targets.format import TargetFormat
from distill.cutting.choose import divergence_of
from distill.cutting.init_student import init_student
from distill.errors import DistillError
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.cut import CutConfig
from tests.support.command_line import run
from tests.support.distill_fakes import small_recipe
from tests.support.paths import EXAMPLES
from tests.support.tiny_teacher import save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
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
    expected = divergence_of(model, [text for text in texts if len(text)], kept)
    assert saved["kl_before_training"] == pytest.approx(expected, rel=1e-4)
    assert (
        result.num_parameters
        == AutoModelForCausalLM.from_pretrained(tmp_path / "s").num_parameters()
    )


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
        ({}, "Give one of --layers and --keep"),
        ({"num_layers": 2, "kept": (0, 1)}, "Give one of --layers and --keep"),
        ({"num_layers": 2, "choose": "best"}, "choose is 'best'"),
        ({"num_layers": 2, "choose": "kl"}, "measures on a cache's documents. Give --cache"),
        ({"num_layers": 9}, "9 layers were asked for, but the teacher has 5"),
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
        "init-student", "--teacher", teacher, "--keep", "0;3", "--out", tmp_path / "t"
    )
    assert code == 2 and "is not a list like 0,2,5" in output
    shutil.rmtree(tmp_path / "s")
