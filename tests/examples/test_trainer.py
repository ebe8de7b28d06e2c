"""examples/trainer.py: its step is that of a plain loop, however documents are divided."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, TrainingArguments

from distill import CachedDataset, distillation_loss
from tests.support.paths import ROOT

SPEC = importlib.util.spec_from_file_location("trainer", ROOT / "examples" / "trainer.py")
trainer = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(trainer)


def student():
    """A small GPT-2 without dropout, the same every time."""
    torch.manual_seed(0)
    rates = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=384, n_positions=512, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0, **rates,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def trained(cache, out, *, batch_size, accumulate):
    """Weights after one step of plain gradient descent over all documents."""
    dataset = CachedDataset(cache)
    model = student()
    made = trainer.DistillationTrainer(
        model=model,
        args=TrainingArguments(
            str(out), max_steps=1, per_device_train_batch_size=batch_size, optim="sgd",
            gradient_accumulation_steps=accumulate, learning_rate=1.0, max_grad_norm=1e9,
            remove_unused_columns=False, report_to="none", save_strategy="no", disable_tqdm=True,
            use_cpu=True, lr_scheduler_type="constant",
        ),
        data_collator=trainer.Collator(dataset), train_dataset=dataset, temperature=2.0, alpha=0.3,
    )  # fmt: skip
    made.train()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(24, 1), (4, 6), (5, 5)])
def test_a_step_is_the_mean_over_its_rows_however_they_are_divided(
    tiny_cache, tmp_path, batch_size, accumulate
):
    dataset, model = CachedDataset(tiny_cache), student()
    documents = dataset.collate(dataset.reader.read("train", range(24)))
    (distillation_loss(model, documents, 2.0, 0.3).loss / documents.num_rows).backward()
    expected = [p.detach() - (0 if p.grad is None else p.grad) for p in model.parameters()]
    found = trained(tiny_cache, tmp_path, batch_size=batch_size, accumulate=accumulate)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


WORDS = ["--student", "1x32x2", "--epochs", "1", "--workers", "1", "--lr", "1e-3"]


def test_several_processes_are_refused(tiny_cache, tmp_path):
    words = [
        sys.executable, ROOT / "examples" / "trainer.py", "--cache", tiny_cache, "--out",
        tmp_path / "run", *WORDS,
    ]  # fmt: skip
    environment = {**os.environ, "WORLD_SIZE": "2"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Start one process" in done.stderr


@pytest.mark.slow
def test_the_program_trains_resumes_and_leaves_a_model(tiny_cache, tmp_path):
    words = [
        sys.executable, ROOT / "examples" / "trainer.py", "--cache", tiny_cache,
        "--out", tmp_path / "run", *WORDS,
    ]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert [line[:9] for line in done.stdout.splitlines()].count("eval_loss") == 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
