"""Adapters: the layers peft would take, the step of the formula, and a plain model when merged."""

import sys
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.func import functional_call
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.errors import DistillError
from distill.learning.lora import (
    count_weights,
    has_adapters,
    load_adapters,
    merged_state,
    save_adapters,
)
from tests.support.distill_fakes import VOCAB_SIZE, FakeReader, small_recipe
from tests.support.learners import batches, make_learner
from tests.support.students import FAMILIES, save_student, student_of

RANK = 3
IDS = torch.arange(1, 30).unsqueeze(0)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(reader):
    return AutoTokenizer.from_pretrained(reader.tokenizer_path)


def adapted(family, folder, reader, tokenizer, **recipe):
    """A student whose adapters are no longer 0, and the model it was made from."""
    source, model = save_student(folder, family, tokenizer)
    torch.manual_seed(3)
    student = student_of(source, reader, tokenizer, lora_rank=RANK, **recipe)
    learning = {name: p for name, p in student.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for weight in learning.values():
            weight.normal_(std=0.3)
    return student, model, learning


@pytest.mark.parametrize("family", FAMILIES)
def test_what_learns_is_what_peft_takes_by_all_linear(family, tmp_path, reader, tokenizer):
    student, model, learning = adapted(family, tmp_path, reader, tokenizer)
    num_parameters = model.num_parameters()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
    expected = {name for name, p in own.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{name}" for name in learning} == expected
    assert count_weights(student) == (num_parameters, own.get_nb_trainable_parameters()[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_student_says_what_pefts_own_model_says(family, tmp_path, reader, tokenizer):
    student, model, _ = adapted(family, tmp_path / "s", reader, tokenizer, lora_alpha=5)
    save_adapters(student, tmp_path / "adapters")
    student.save_pretrained(tmp_path / "merged", state_dict=merged_state(student))
    merged, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    own = PeftModel.from_pretrained(model, tmp_path / "adapters").eval()
    with torch.no_grad():
        plain = student_of(str(tmp_path / "s"), reader, tokenizer).eval()(input_ids=IDS).logits
        logits = own(input_ids=IDS).logits
        torch.testing.assert_close(student.eval()(input_ids=IDS).logits, logits)
        torch.testing.assert_close(merged.eval()(input_ids=IDS).logits, logits)
    assert (logits - plain).abs().max() > 0.1  # else this test shows nothing
    unloaded = own.merge_and_unload().state_dict()
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, unloaded[name]), name


LR, DECAY, CLIP, TEMPERATURE, ALPHA, LORA_ALPHA = 1e-2, 0.1, 0.05, 2.0, 0.3, 7


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_step_is_that_of_the_formula_and_nothing_else_moves(family, tmp_path, reader, tokenizer):
    """In float64: dense logits of W + alpha / rank · B A, and AdamW's first step by hand."""
    student, model, learning = adapted(family, tmp_path, reader, tokenizer, lora_alpha=LORA_ALPHA)
    learner = make_learner(
        reader, model=student.double(), temperature=TEMPERATURE, alpha=ALPHA, lr=LR,
        weight_decay=DECAY, clip=CLIP,
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in student.state_dict().items()}
    weights = [weight.detach().clone().requires_grad_() for weight in learning.values()]
    loss = dense_loss(model.double(), dict(zip(learning, weights, strict=True)), reader)
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > CLIP

    losses, found_norm = learner.train_step(batches(reader, [[0, 4], [2]]), step=1)
    assert losses.loss == pytest.approx(loss.item(), rel=1e-6)
    assert found_norm == pytest.approx(norm.item(), rel=1e-6)
    for weight, start, gradient in zip(learning.values(), weights, gradients, strict=True):
        clipped = gradient * CLIP / norm
        expected = start * (1 - LR * DECAY) - LR * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-6)
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, before[name]) == (name not in learning), name


def dense_loss(model, adapters, reader):
    """Mean over rows, of documents run one by one through the model with merged weights."""
    state, merged = model.state_dict(), {}
    for name in adapters:
        if ".lora_A." in name:
            layer = name.split(".lora_A.")[0]
            change = adapters[name.replace("lora_A", "lora_B")] @ adapters[name]  # (out, in)
            change = change.T if model.config.model_type == "gpt2" else change
            merged[f"{layer}.weight"] = state[f"{layer}.weight"] + LORA_ALPHA / RANK * change
    total, num_rows = 0.0, 0
    for index in (0, 4, 2):
        document = reader.read("train", [index])
        ids = torch.from_numpy(document.token_ids)
        logits = functional_call(model, merged, (), {"input_ids": ids.unsqueeze(0)}).logits[0, :-1]
        target = document.targets.at(TEMPERATURE).to_dense(VOCAB_SIZE).double()
        log_q = (logits / TEMPERATURE).log_softmax(-1)
        kl = (torch.special.xlogy(target, target) - target * log_q).sum()
        ce = functional.cross_entropy(logits, ids[1:], reduction="sum")
        total = total + ALPHA * TEMPERATURE**2 * kl + (1 - ALPHA) * ce
        num_rows += len(logits)
    return total / num_rows


def test_before_the_first_step_it_says_what_the_model_says(tmp_path, reader, tokenizer):
    source, model = save_student(tmp_path, "qwen2", tokenizer)
    student = student_of(source, reader, tokenizer, lora_rank=RANK).eval()
    with torch.no_grad():
        assert torch.equal(student(input_ids=IDS).logits, model(input_ids=IDS).logits)
    for name, weight in merged_state(student).items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_frozen_parts_get_no_adapters(tmp_path, reader, tokenizer):
    source, _ = save_student(tmp_path, "llama", tokenizer)
    student = student_of(source, reader, tokenizer, lora_rank=2, freeze=("layers.0.", "mlp"))
    learning = {name for name, p in student.named_parameters() if p.requires_grad}
    layers = {name.split(".lora_")[0] for name in learning}
    assert layers == {f"model.layers.1.self_attn.{part}_proj" for part in "qkvo"}
    with pytest.raises(DistillError, match="freeze leaves no linear layer to lora_rank"):
        student_of(source, reader, tokenizer, lora_rank=2, freeze=("proj",))


def test_adapters_go_back_only_onto_the_weights_they_were_trained_with(tmp_path, reader, tokenizer):
    student, _, learning = adapted("llama", tmp_path / "s", reader, tokenizer)
    save_adapters(student, tmp_path / "adapters")
    source = str(tmp_path / "s")
    other = student_of(source, reader, tokenizer, lora_rank=RANK)
    load_adapters(other, tmp_path / "adapters")
    for name, weight in other.named_parameters():
        assert torch.equal(weight, student.state_dict()[name]), name
    moved = student_of(source, reader, tokenizer, lora_rank=RANK)
    with torch.no_grad():
        moved.model.norm.weight[0] += 1e-3
    with pytest.raises(DistillError, match=r"were trained on other weights .*folder back as it"):
        load_adapters(moved, tmp_path / "adapters")


def test_a_folder_of_adapters_is_no_student(tmp_path, reader, tokenizer):
    student, _, _ = adapted("llama", tmp_path / "s", reader, tokenizer)
    save_adapters(student, tmp_path / "adapters")
    tokenizer.save_pretrained(tmp_path / "adapters")
    with pytest.raises(DistillError, match="is a folder of adapters. Merge them first"):
        student_of(str(tmp_path / "adapters"), reader, tokenizer)


def test_without_peft_the_extra_is_named(tmp_path, reader, tokenizer, monkeypatch):
    source, _ = save_student(tmp_path, "llama", tokenizer)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert not has_adapters(student_of(source, reader, tokenizer))
    with pytest.raises(DistillError, match=r"lora_rank needs peft.*'logitcache\[lora\]'"):
        student_of(source, reader, tokenizer, lora_rank=2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lora_rank": 4}, "begins with random weights, which would stay"),
        ({"lora_rank": 4, "student": "a/b", "init": "random"}, "begins with random weights"),
        ({"lora_rank": 0, "student": "a/b"}, "lora_rank is 0, but must be at least 1"),
        ({"lora_alpha": 8, "student": "a/b"}, "must be left out without lora_rank"),
        (
            {"lora_rank": 4, "lora_alpha": 0, "student": "a/b"},
            "lora_alpha is 0, but must be at least 1",
        ),
    ],
)
def test_what_fits_no_adapter_is_refused(changed, words):
    with pytest.raises(DistillError, match=words):
        small_recipe(**changed)
