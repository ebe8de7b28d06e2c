"""A finished run: a folder that transformers opens, with all that explains it."""

import json
import threading
from dataclasses import asdict, replace

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from cache.reading.reader import CacheReader
from distill.errors import DistillError
from distill.run.logs import StepLog, read_metrics, wandb_mode
from distill.run.plots import TITLES, plot_run
from distill.run.tables import summary_table
from distill.run.train import train
from distill.settings.config import TrainConfig
from tests.support.distill_fakes import VOCAB_SIZE, FakeReader, config_for, small_recipe
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests/golden/distill_loss_curve.json"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def finished(reader, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    return train(config_for(reader, out, lr=1e-2, epochs=6), reader=reader)


def test_the_folder_opens_with_transformers_and_generates(finished):
    tokenizer = AutoTokenizer.from_pretrained(finished.out)
    model = AutoModelForCausalLM.from_pretrained(finished.out)
    prompt = tokenizer("w1 w2 w3", return_tensors="pt")
    assert prompt.input_ids.tolist() == [[1, 2, 3]]
    ids = model.generate(
        prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=5, min_new_tokens=5
    )
    assert ids.shape == (1, 8)


def test_generation_stops_at_the_end_of_text(finished):
    model = AutoModelForCausalLM.from_pretrained(finished.out)
    # The last layer norm puts out nothing but the embedding of the end of text: it is certain.
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(1000 * model.transformer.wte.weight[0])
    ids = model.generate(
        torch.tensor([[1, 2], [3, 4]]), attention_mask=torch.ones(2, 2), max_new_tokens=20
    )
    assert ids[:, 2:].tolist() == [[0], [0]]


def test_the_student_learns_from_its_teacher(finished):
    metrics = read_metrics(finished.out / "metrics.jsonl")
    validated = [line for line in metrics if "val_loss" in line]
    assert [line["epoch"] for line in validated] == [0, 1, 2, 3, 4, 5, 6]
    assert validated[-1]["val_distillation_loss"] < 0.9 * validated[1]["val_distillation_loss"]
    assert validated[-1]["val_kl"] < 0.9 * validated[1]["val_kl"]
    assert list(validated[0])[2:5] == ["val_kl", "val_cross_entropy", "val_top1"]
    # Of all tokens, which this recipe's loss counts too.
    assert validated[-1]["val_cross_entropy"] == pytest.approx(validated[-1]["val_ce_loss"])


def test_a_student_is_measured_before_its_first_step(finished):
    first, *_ = read_metrics(finished.out / "metrics.jsonl")
    assert (first["step"], first["epoch"]) == (0, 0)
    # Random weights know nothing.
    assert first["val_ce_loss"] == pytest.approx(np.log(VOCAB_SIZE), abs=0.1)


def test_metrics_have_every_step_with_its_losses_and_speed(finished):
    metrics = read_metrics(finished.out / "metrics.jsonl")
    trained = [line for line in metrics if "train_loss" in line]
    assert [line["step"] for line in trained] == list(range(1, 37))
    for line in trained:
        mixed = 0.5 * line["train_distillation_loss"] + 0.5 * line["train_ce_loss"]
        assert line["train_loss"] == pytest.approx(mixed, rel=1e-5)
        assert line["grad_norm"] > 0 and line["tokens_per_s"] > 0
    assert {line["epoch"] for line in trained} == {1, 2, 3, 4, 5, 6}


def test_run_json_says_what_ran_on_what(finished, reader):
    run = json.loads((finished.out / "run.json").read_text())
    assert run["status"] == "finished"
    assert run["recipe"] == json.loads(json.dumps(asdict(finished.recipe)))
    assert run["cache"]["identity_hash"] == reader.identity_hash
    assert run["cache"]["identity"]["teacher"] == "example/bigram-teacher"
    assert run["losses"] == finished.losses
    assert run["device"] == {"name": "cpu", "num_processes": 1, "precision": "fp32"}
    assert set(run["versions"]) == {"python", "torch", "transformers", "accelerate"}
    assert run["train_documents"] == 24
    assert run["train_tokens"] == reader.document_lengths("train").sum()
    assert run["seconds"] > 0 and run["tokens_per_s"] > 0 and run["steps"] == 36


def test_final_losses_are_those_of_the_last_epoch(finished):
    metrics = read_metrics(finished.out / "metrics.jsonl")
    last = [line for line in metrics if line["epoch"] == 6 and "train_loss" in line]
    rows = sum(line["num_rows"] for line in last)
    mean = sum(line["train_loss"] * line["num_rows"] for line in last) / rows
    assert finished.losses["train_loss"] == pytest.approx(mean)
    assert finished.losses["val_loss"] == metrics[-1]["val_loss"]


def test_model_card_tells_the_facts(finished):
    card = (finished.out / "README.md").read_text()
    for fact in (
        "base_model: example/bigram-teacher",
        f"{finished.num_parameters:,} parameters",
        "| temperature | 2.0 |",
        "| top k | 8 |",
        "| tail | mass |",
        "| cache identity | fake-identity |",
        f"{finished.losses['val_ce_loss']:.4f}",
        "AutoModelForCausalLM.from_pretrained(folder)",
        "## Limits",
        "## Licence",
    ):
        assert fact in card


def test_a_summary_shows_losses_and_place(finished):
    wide = Console(width=200)
    with wide.capture() as capture:
        wide.print(summary_table(finished))
    shown = capture.get()
    yardsticks = (f"{finished.losses['val_kl']:.4f}", f"{finished.losses['val_top1']:.1%}")
    for fact in (
        *yardsticks,
        str(finished.out),
        f"{finished.losses['val_ce_loss']:.4f}",
        "43,904",
        "36",
    ):
        assert fact in shown


def test_all_plots_are_drawn(finished, tmp_path, painted):
    assert {path.stem for path in (finished.out / "plots").glob("*.png")} == set(TITLES)
    lines = (finished.out / "metrics.jsonl").read_text().splitlines()
    paths = plot_run("a run", [json.loads(line) for line in lines], tmp_path)
    assert {path.stem for path in paths} == set(TITLES)
    pictures = [matplotlib.image.imread(path)[..., :3] for path in paths]
    assert all(picture.std() > 0.01 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(TITLES)


def test_a_cache_without_validation_trains_and_draws_what_there_is(tmp_path):
    reader = FakeReader(tmp_path / "cache", num_train=4, num_validation=0)
    result = train(config_for(reader, tmp_path / "out", epochs=1), reader=reader)
    assert "val_loss" not in result.losses
    names = {path.stem for path in (result.out / "plots").glob("*.png")}
    assert names == {name for name in TITLES if name.startswith("train_")}
    assert "val_kl" not in result.losses
    assert "not measured" in (result.out / "README.md").read_text()


def test_a_cache_without_training_documents_is_refused(tmp_path):
    reader = FakeReader(tmp_path / "cache", num_train=0)
    with pytest.raises(DistillError, match=r"no documents to train on \(splits: validation\)"):
        train(config_for(reader, tmp_path / "out"), reader=reader)


def test_a_run_that_cannot_start_leaves_no_directory(tmp_path):
    reader = FakeReader(tmp_path / "cache", num_train=0)
    with pytest.raises(DistillError):
        train(config_for(reader, tmp_path / "out"), reader=reader)
    assert not (tmp_path / "out").exists()


def test_loss_on_completion_counts_fewer_rows(reader, tmp_path):
    result = train(
        config_for(reader, tmp_path / "out", epochs=1, loss_on="completion"), reader=reader
    )
    rows = sum(line.get("num_rows", 0) for line in read_metrics(result.out / "metrics.jsonl"))
    lengths = reader.document_lengths("train")
    assert rows == (lengths - lengths // 2).sum()


def test_two_runs_of_a_recipe_are_the_same(reader, tmp_path):
    results = [train(config_for(reader, tmp_path / name, epochs=1), reader=reader) for name in "ab"]
    assert results[0].losses == results[1].losses


def test_golden_loss_curve(reader, tmp_path):
    """Twenty steps whose losses no refactoring may move.

    After a change that is meant to move them, write `curve` to the golden file.
    """
    out = tmp_path / "out"
    recipe = {"epochs": 5, "accumulate": 3, "dropout": 0.0, "seed": 7, "lr": 5e-3}
    train(config_for(reader, out, **recipe), reader=reader)
    trained = [line for line in read_metrics(out / "metrics.jsonl") if "train_loss" in line]
    names = ("train_loss", "train_distillation_loss", "train_ce_loss")
    curve = {name: [round(line[name], 6) for line in trained] for name in names}
    golden = json.loads(GOLDEN.read_text())
    assert len(trained) == 20
    assert curve.keys() == golden.keys()
    for name, values in golden.items():
        assert curve[name] == pytest.approx(values, abs=1e-4)


def test_wandb_works_offline_without_an_account(reader, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = replace(config_for(reader, tmp_path / "out", epochs=1), wandb="offline")
    train(config, reader=reader)
    runs = list((tmp_path / "out/wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 1
    logged = runs[0].read_bytes()
    for name in (
        b"train_distillation_loss",
        b"val_kl",
        b"val_top1",
        b"val_ce_loss",
        b"grad_norm",
        b"fake-identity",
    ):
        assert name in logged


def test_wandb_is_off_unless_asked_for_or_logged_in(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(None) == "disabled"
    assert wandb_mode("online") == "online"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_mode(None) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(None) == "offline"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_mode(None) == "online"


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "val_loss": 1}\n{"step": 3}\n{"st')
    log = StepLog(path, last_step=2)
    log.write({"step": 3, "grad_norm": float("inf")})
    log.close()
    assert read_metrics(path) == [
        {"step": 1},
        {"step": 2},
        {"step": 2, "val_loss": 1},
        {"step": 3, "grad_norm": None},
    ]


def test_vocabulary_of_the_student_is_that_of_the_cache(finished):
    assert AutoModelForCausalLM.from_pretrained(finished.out).config.vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("loss_on", ["all", "completion"])
def test_a_real_cache_trains(tiny_cache, tmp_path, loss_on):
    config = TrainConfig(
        cache=tiny_cache,
        recipe=small_recipe(loss_on=loss_on, batch_size=4, accumulate=2),
        out=tmp_path / "out",
        wandb="disabled",
    )
    result = train(config)
    assert result.losses["val_loss"] > 0
    first = read_metrics(config.out / "metrics.jsonl")[1]
    # Random weights know nothing: cross-entropy starts at log V.
    assert first["train_ce_loss"] == pytest.approx(np.log(384), abs=0.1)
    with CacheReader(tiny_cache) as reader:
        lengths = reader.document_lengths("train")
        documents = reader.read("train", range(len(lengths)))
    rows = sum(line.get("num_rows", 0) for line in read_metrics(config.out / "metrics.jsonl"))
    prompts = np.ones_like(lengths) if loss_on == "all" else documents.prompt_lengths
    assert rows == 2 * (lengths - prompts).sum()
    tokenizer = AutoTokenizer.from_pretrained(config.out)
    text = "def add(a, b):\n    return a + b"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_run_interrupted_in_validation_leaves_no_thread_that_reads(tmp_path, monkeypatch):
    def interrupt(losses):
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.learning.learner._stacked", interrupt)
    reader = FakeReader(tmp_path / "cache", num_validation=40)
    with pytest.raises(KeyboardInterrupt) as held:
        train(config_for(reader, tmp_path / "out"), reader=reader)
    assert held.tb and "prefetch" not in {thread.name for thread in threading.enumerate()}
