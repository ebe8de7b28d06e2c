"""Students of other families are shared by two processes, and resumed."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from distill.run.logs import read_metrics
from distill.run.train import train
from tests.support.distill_fakes import METRICS, FakeReader, Interrupt, config_for
from tests.support.killed_runs import UNEVEN, train_pair, train_whole
from tests.support.scenarios import under_way
from tests.support.students import FAMILIES, save_student

OTHERS = sorted({*FAMILIES} - {"gpt2"})


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_two_processes_train_the_same_student_as_one(family, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(FakeReader(tmp_path / "cache").tokenizer_path)
    source, _ = save_student(tmp_path / "student", family, tokenizer)
    recipe = {**UNEVEN, "epochs": 1, "student": source}
    scenarios = {"one": (train_whole, recipe), "two": (train_pair, recipe)}
    with under_way(tmp_path, scenarios) as ended:
        one, two = ended("one"), ended("two")
    expected, actual = (load_file(f"{run}/model.safetensors") for run in (one, two))
    for name in expected:
        # What GPT-NeoX adds to keys where they are not rotated changes no attention: its gradient
        # is rounding alone, of which AdamW makes whole steps.
        if name.endswith("query_key_value.bias"):
            continue
        torch.testing.assert_close(actual[name], expected[name], atol=2e-5, rtol=1e-4)
    for name in ("train_loss", "val_loss", "num_rows"):
        losses = [
            [line[name] for line in read_metrics(run / METRICS) if name in line]
            for run in (one, two)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", OTHERS)
def test_an_interrupted_run_ends_with_the_same_bits(family, precision, tmp_path):
    reader = FakeReader(tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    source, _ = save_student(tmp_path / "student", family, tokenizer)
    recipe = {
        "student": source, "precision": precision, "batching": "packed", "lr": 1e-2,
        "gradient_checkpointing": True,
    }  # fmt: skip
    whole = train(config_for(reader, tmp_path / "whole", **recipe), reader=reader)
    config = config_for(reader, tmp_path / "out", **recipe)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 22, KeyboardInterrupt()))
    resumed = train(replace(config, resume=True), reader=reader)
    assert resumed.resumed_from_step == 6 and resumed.losses == whole.losses
    for name in ("model.safetensors", "best/model.safetensors"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert whole.losses["val_loss"] < read_metrics(whole.out / METRICS)[0]["val_loss"]
