"""Validations within an epoch, on some of the documents, and what the student writes at each."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import distill.run.plots
from distill.errors import DistillError
from distill.run.checkpoint import TrainState
from distill.run.logs import read_metrics
from distill.run.plots import plot_run
from distill.run.train import train
from tests.support.distill_fakes import METRICS, FakeReader, Interrupt, config_for

SAMPLES = "samples.jsonl"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(reader, tmp_path_factory):
    """A run of two epochs, of 6 steps each, validated at their ends."""
    return train(config_for(reader, tmp_path_factory.mktemp("runs") / "plain"), reader=reader)


@pytest.fixture(scope="module")
def watched(reader, tmp_path_factory):
    """The same one, validated after every fourth step too, with completions."""
    out = tmp_path_factory.mktemp("runs") / "watched"
    return train(config_for(reader, out, validate_every=4, sample_prompts=2), reader=reader)


def lines(run, name="train_loss"):
    found = [line for line in read_metrics(run.out / METRICS) if name in line]
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in found]


@torch.no_grad()
def cross_entropy(folder, reader, documents) -> float:
    """Over some documents of the validation split, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    total, num_rows = 0.0, 0
    for index in documents:
        ids = torch.from_numpy(reader.read("validation", [index]).token_ids)
        logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        num_rows += len(ids) - 1
    return total / num_rows


def test_watching_a_student_changes_no_bit_of_it(plain, watched):
    assert lines(watched) == lines(plain)
    for name in ("model.safetensors", "checkpoints/step-00000012/rng.pt"):
        assert (watched.out / name).read_bytes() == (plain.out / name).read_bytes()
    assert watched.losses == plain.losses


def test_validations_come_every_so_many_steps_and_at_the_ends_of_epochs(watched, reader, tmp_path):
    validated = lines(watched, "val_kl")
    expected = [(0, 0), (4, 1), (6, 1), (8, 2), (12, 2)]
    assert [(line["step"], line["epoch"]) for line in validated] == expected
    stopped = train(config_for(reader, tmp_path / "out", max_steps=4), reader=reader)
    assert lines(stopped, "val_kl")[-1] == validated[1]


def test_curves_have_a_point_for_each_validation(watched, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        distill.run.plots,
        "_draw_validation",
        lambda axes, steps, values, label, colour: drawn.update({axes.get_title("left"): steps}),
    )
    metrics = read_metrics(watched.out / METRICS)
    plot_run("small", metrics, tmp_path)
    assert [steps.tolist() for steps in drawn.values()] == [[0, 4, 6, 8, 12]]


def test_the_best_may_be_within_an_epoch(reader, tmp_path):
    options = {"lr": 1e-1, "best_by": "top1", "validate_every": 1, "epochs": 1}
    result = train(config_for(reader, tmp_path / "out", **options), reader=reader)
    values = [line["val_top1"] for line in lines(result, "val_kl")]
    best = int(np.argmax(values))
    assert 0 < best < 6 and result.best == {"epoch": 1, "step": best, "value": values[best]}
    measured = cross_entropy(result.out / "best", reader, range(6))
    expected = lines(result, "val_kl")[best]["val_cross_entropy"]
    assert measured == pytest.approx(expected, rel=1e-4)
    assert f"Best: epoch 1, step {best}," in (result.out / "README.md").read_text()


def test_the_best_weights_are_never_later_than_the_run(reader, tmp_path):
    """A killed run, gone on with to fewer steps than it had come to."""
    options = {"lr": 1e-2, "dropout": 0.0, "validate_every": 4, "alpha": 0.0, "best_by": "loss"}
    config = config_for(reader, tmp_path / "out", **options)
    reads = 3 + 12 + 6 + 12 + 3  # to the last step, and three validations besides the first
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, reads, KeyboardInterrupt()))
    assert {path.name for path in config.out.glob("best*")} == {"best", "best-of-step-00000008"}
    shorter = config_for(reader, config.out, resume=True, max_steps=7, **options)
    result = train(shorter, reader=reader)
    assert result.num_steps == 7 and result.resumed_from_step == 6
    measured = cross_entropy(result.out / "best", reader, range(6))
    assert measured == pytest.approx(result.best["value"], rel=1e-4)


def note(state, step, value, *, ends):
    """A validation, with 10 steps an epoch."""
    state.step = step
    state.epoch, state.epoch_step = (step // 10, 0) if ends else (step // 10, step % 10)
    state.validation = {"val_kl": value}
    return state.note_validation(state.epoch + (state.epoch_step > 0), "kl")


def test_early_stopping_counts_epochs_however_often_is_validated():
    state = TrainState()
    assert note(state, 0, 5.0, ends=True) and state.epochs_since_best == 0
    assert note(state, 5, 4.0, ends=False) and state.epochs_since_best == 0
    assert not note(state, 10, 4.5, ends=True) and state.epochs_since_best == 0  # better within it
    assert not note(state, 15, 4.1, ends=False) and state.epochs_since_best == 0
    assert not note(state, 20, 4.2, ends=True) and state.epochs_since_best == 1
    assert note(state, 25, 3.0, ends=False) and state.epochs_since_best == 0
    assert not note(state, 30, 3.5, ends=True) and state.epochs_since_best == 0
    assert not note(state, 40, 3.5, ends=True) and state.epochs_since_best == 1
    assert not note(state, 50, 3.5, ends=True) and state.epochs_since_best == 2


def test_a_cap_measures_the_same_documents_of_the_split_every_time(reader, tmp_path):
    options = {"validation_documents": 4, "max_steps": 1}
    result = train(config_for(reader, tmp_path / "out", **options), reader=reader)
    measured = cross_entropy(result.out, reader, [0, 1, 3, 4])  # evenly spaced among 6
    assert result.losses["val_cross_entropy"] == pytest.approx(measured, rel=1e-4)
    card = (result.out / "README.md").read_text()
    assert "On all tokens of 4 documents at most of the validation split, whatever" in card


def test_validating_within_an_epoch_needs_a_validation_split(tmp_path):
    reader = FakeReader(tmp_path / "c", num_validation=0)
    with pytest.raises(DistillError, match="validate_every looks at validations, but the cache"):
        train(config_for(reader, tmp_path / "out", validate_every=2), reader=reader)


@pytest.mark.parametrize("field", ["validate_every", "validation_documents"])
def test_a_number_of_none_is_refused(reader, tmp_path, field):
    with pytest.raises(DistillError, match=f"{field} is 0, but must be at least 1"):
        config_for(reader, tmp_path, **{field: 0})


def test_samples_are_what_transformers_writes_from_the_same_weights(watched, reader):
    samples = read_metrics(watched.out / SAMPLES)
    assert [line["step"] for line in samples] == [0, 0, 4, 4, 6, 6, 8, 8, 12, 12]
    assert [line["task_id"] for line in samples[-2:]] == [600, 603]
    tokenizer = AutoTokenizer.from_pretrained(watched.out)
    for folder, step in ((watched.out, 12), (watched.out / "best", watched.best["step"])):
        model = AutoModelForCausalLM.from_pretrained(folder)
        for sample in (line for line in samples if line["step"] == step):
            document = reader.read("validation", [sample["task_id"] - 600])
            length = int(document.prompt_lengths[0])
            assert sample["prompt"] == tokenizer.decode(document.token_ids[:length])
            assert sample["reference"] == tokenizer.decode(document.token_ids[length:])
            prompt = torch.from_numpy(document.token_ids[:length]).unsqueeze(0)
            written = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False
            )
            assert sample["completion"] == tokenizer.decode(written[0, length:])


def test_samples_are_a_table_in_wandb(reader, tmp_path, monkeypatch):
    rows = []
    run = SimpleNamespace(
        log=lambda row, step, commit: rows.append(row), finish=lambda exit_code: None
    )
    monkeypatch.setattr("wandb.init", lambda **options: run)
    config = config_for(reader, tmp_path / "out", max_steps=1, sample_prompts=1)
    train(replace(config, wandb="offline"), reader=reader)
    assert [row["step"] for row in rows] == [0, 1] and "train_loss" in rows[1]
    written = read_metrics(config.out / SAMPLES)
    for row, line in zip(rows, written, strict=True):
        table = row["samples"]
        assert table.columns == ["task_id", "prompt", "completion", "reference"]
        assert table.data == [[line[name] for name in table.columns]]


def test_no_samples_are_written_where_none_are_asked_for(plain, tmp_path):
    assert not (plain.out / SAMPLES).exists()
    reader = FakeReader(tmp_path / "c", num_train=4, num_validation=0)
    result = train(config_for(reader, tmp_path / "out", sample_prompts=2, epochs=1), reader=reader)
    assert not (result.out / SAMPLES).exists()
    assert json.loads((result.out / "run.json").read_text())["recipe"]["sample_prompts"] == 2
