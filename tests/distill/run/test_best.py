"""The best weights beside the last, and runs that stop where validation no longer gets better."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.errors import DistillError
from distill.run.logs import read_metrics
from distill.run.run_folder import is_finished
from distill.run.train import train
from tests.support.distill_fakes import METRICS, FakeReader, config_for

OVERFIT = {"epochs": 8, "lr": 3e-2, "alpha": 0.5, "dropout": 0.0, "best_by": "cross_entropy"}
"""Few documents and large steps: validation is best before the end."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(reader, tmp_path_factory):
    config = config_for(reader, tmp_path_factory.mktemp("runs") / "whole", **OVERFIT)
    return train(config, reader=reader)


def validations(out, name="val_cross_entropy"):
    return [line[name] for line in read_metrics(out / METRICS) if name in line]


@torch.no_grad()
def cross_entropy(folder, reader) -> float:
    """Over the validation split, a document at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    total, num_rows = 0.0, 0
    for index in range(reader.num_documents("validation")):
        ids = torch.from_numpy(reader.read("validation", [index]).token_ids)
        logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        num_rows += len(ids) - 1
    return total / num_rows


def test_best_has_the_weights_of_the_best_validation_and_the_run_those_of_the_last(reader, whole):
    found = validations(whole.out)
    best = min(range(len(found)), key=found.__getitem__)
    assert best < len(found) - 1  # else this test shows nothing
    assert whole.best == {"epoch": best, "step": 6 * best, "value": found[best]}
    assert cross_entropy(whole.out / "best", reader) == pytest.approx(found[best], rel=1e-4)
    assert cross_entropy(whole.out, reader) == pytest.approx(found[-1], rel=1e-4)
    AutoTokenizer.from_pretrained(whole.out / "best")
    run = json.loads((whole.out / "run.json").read_text())
    assert run["best"] == whole.best and not run["stopped_early"]
    card = (whole.out / "README.md").read_text()
    when = f"epoch {best}, step {6 * best}"
    assert f"Best: {when}, cross-entropy, all tokens {found[best]:.4f}, in best/." in card


def test_a_run_that_only_made_its_student_worse_says_so(reader, tmp_path):
    result = train(config_for(reader, tmp_path / "out", epochs=1, lr=10.0), reader=reader)
    first, *others = validations(result.out, "val_kl")
    assert others and min(others) > first
    card = (result.out / "README.md").read_text()
    assert f"Best: before the first step, KL from the teacher, T = 1 {first:.4f}, in best/." in card
    assert "Training made it worse: try a tenth of lr" in card


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_stops_after_so_many_epochs_without_a_better_validation(
    reader, whole, tmp_path, patience
):
    config = config_for(reader, tmp_path / "out", **OVERFIT, early_stopping=patience)
    result = train(config, reader=reader)
    found = validations(whole.out)
    best, stale, epochs = found[0], 0, 0
    for value in found[1:]:
        epochs, stale = epochs + 1, 0 if value < best else stale + 1
        best = min(best, value)
        if stale == patience:
            break
    assert result.num_steps == 6 * epochs < whole.num_steps and result.stopped_early
    assert validations(result.out) == found[: epochs + 1]
    run = json.loads((result.out / "run.json").read_text())
    assert is_finished(run, config, reader)  # a sweep does not go on with it
    assert (
        f"Training stopped early, after step {6 * epochs}."
        in (result.out / "README.md").read_text()
    )


def test_accuracy_is_better_when_it_is_higher(reader, tmp_path):
    config = config_for(reader, tmp_path / "out", **{**OVERFIT, "best_by": "top1", "epochs": 3})
    result = train(config, reader=reader)
    assert result.best["value"] == max(validations(result.out, "val_top1"))


def test_a_run_killed_on_the_way_keeps_the_same_best(reader, whole, tmp_path, monkeypatch):
    config = config_for(reader, tmp_path / "out", **OVERFIT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distill.run.train.save_checkpoint", save_until_epoch(3))
        train(config, reader=reader)
    resumed = train(config_for(reader, config.out, resume=True, **OVERFIT), reader=reader)
    assert resumed.best == whole.best and resumed.losses == whole.losses
    for name in ("model.safetensors", "best/model.safetensors"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()


def save_until_epoch(last: int):
    """`save_checkpoint`, interrupted in place of the checkpoint of an epoch."""
    from distill.run.checkpoint import save_checkpoint

    def save(folder, state, learner):
        if state.epoch == last:
            raise KeyboardInterrupt
        save_checkpoint(folder, state, learner)

    return save


def test_stopping_early_needs_a_validation_split(tmp_path):
    reader = FakeReader(tmp_path / "c", num_validation=0)
    with pytest.raises(DistillError, match="has no validation split. Leave it out, or add"):
        train(config_for(reader, tmp_path / "out", early_stopping=1), reader=reader)
    result = train(config_for(reader, tmp_path / "out", epochs=1), reader=reader)
    assert result.best == {} and not (result.out / "best").exists()
