"""examples/trainer.py: its step is that of a plain loop, however documents are divided."""

import importlib.util
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


def test_evaluation_is_the_mean_over_all_rows(tiny_cache, tmp_path):
    train, validation = CachedDataset(tiny_cache), CachedDataset(tiny_cache, "validation")
    made = trainer.DistillationTrainer(
        model=student(), eval_dataset=validation, data_collator=trainer.Collator(train),
        args=TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=4, report_to="none", use_cpu=True,
            remove_unused_columns=False,
        ),
        temperature=2.0, alpha=0.3,
    )  # fmt: skip
    model = student().eval()
    batch = validation.collate(validation.reader.read("validation", range(len(validation))))
    expected = distillation_loss(model, batch, 2.0, 0.3).loss / batch.num_rows
    assert made.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tiny_cache, tmp_path):
    student().save_pretrained(tmp_path / "student")
    program = [ROOT / "examples" / "trainer.py", "--cache", tiny_cache, *WORDS]
    program += ["--student", tmp_path / "student"]
    pair = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for start, accumulate in (([sys.executable], "4"), (pair, "2")):
        out = tmp_path / accumulate
        words = [*start, *program, "--out", out, "--accumulate", accumulate]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("eval_loss")]
        found.append((float(line.split()[1][:-1]), AutoModelForCausalLM.from_pretrained(out)))
    assert found[0][0] == pytest.approx(found[1][0], abs=2e-4)
    for one, other in zip(found[0][1].parameters(), found[1][1].parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)


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
