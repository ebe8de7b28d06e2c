"""A run whose student learns by adapters: a plain folder at the end, and resumed to the bit."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.errors import DistillError
from distill.run.train import train
from tests.support.distill_fakes import FakeReader, Interrupt, config_for
from tests.support.students import save_student

IDS = torch.arange(1, 30).unsqueeze(0)
LORA = {"lora_rank": 2, "lr": 3e-2, "epochs": 3, "gradient_checkpointing": True}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.run.train.plot_run", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def source(reader, tmp_path_factory):
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    return save_student(tmp_path_factory.mktemp("student"), "qwen3", tokenizer)[0]


@pytest.fixture(scope="module")
def whole(reader, source, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train(config_for(reader, out, student=source, **LORA), reader=reader)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_the_folder_is_a_plain_model_with_the_adapters_of_the_last_checkpoint(whole, source):
    assert not list(whole.out.glob("adapter*")) and not list((whole.out / "best").glob("adapter*"))
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (source, whole.out))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == ("_proj" not in name), name
    plain = AutoModelForCausalLM.from_pretrained(source)
    last = PeftModel.from_pretrained(plain, whole.out / "checkpoints/step-00000018")
    torch.testing.assert_close(
        logits(last), logits(AutoModelForCausalLM.from_pretrained(whole.out)), rtol=1e-4, atol=1e-5
    )


def test_a_checkpoint_holds_what_learns_and_the_run_says_how_much_that_is(whole, source):
    adapters = load_file(whole.out / "checkpoints/step-00000018/adapter_model.safetensors")
    num_trained = sum(weight.numel() for weight in adapters.values())
    assert not (whole.out / "checkpoints/step-00000018/model.safetensors").exists()
    assert whole.num_trained == num_trained
    assert whole.num_parameters == AutoModelForCausalLM.from_pretrained(source).num_parameters()
    run = json.loads((whole.out / "run.json").read_text())
    assert run["num_trained"] == num_trained
    said = f"(parameters that learned: {num_trained:,}, LoRA adapters of rank 2, merged)"
    assert said in (whole.out / "README.md").read_text()


def test_an_interrupted_run_ends_with_the_same_bits(reader, whole, source, tmp_path):
    config = config_for(reader, tmp_path / "out", student=source, **LORA)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 3 + 15 + 20, KeyboardInterrupt()))
    resumed = train(replace(config, resume=True), reader=reader)
    assert resumed.resumed_from_step == 12
    assert resumed.losses == whole.losses and resumed.best == whole.best
    for name in ("model.safetensors", "best/model.safetensors"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_a_run_does_not_go_on_with_another_model_in_the_students_folder(reader, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    student = tmp_path / "student"
    save_student(student, "qwen3", tokenizer)
    config = config_for(reader, tmp_path / "out", student=str(student), **LORA)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    save_student(student, "qwen3", tokenizer, initializer_range=0.1)
    with pytest.raises(DistillError, match="step-00000006 were trained on other weights than"):
        train(replace(config, resume=True), reader=reader)
