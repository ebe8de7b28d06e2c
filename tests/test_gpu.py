"""What the accelerator computes is what the CPU does: `pytest -m gpu`.

All but those of the basis and of a fitted cut passed on an H100 (docs/gpu.md). Without an
accelerator they compare the CPU with itself, which shows only that they run:
`benchmarks/gpu.sh --tiny`.
"""

import json
from pathlib import Path

import pytest
import torch

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.machine.precision import default_device
from cache.reading.reader import CacheReader
from cache.targets.basis import BasisFit
from cache.targets.format import TAILS, TargetFormat
from cache.teacher.load import load_causal_lm, load_tokenizer
from cache.tools.verify import verify_cache
from cache.tools.verify_live import verify_live
from distill.batches.batch import BatchSource
from distill.batches.epoch_plan import plan_epoch
from distill.cutting.parts import feed_forwards
from distill.cutting.reconstruct import flows_of, reconstruct
from distill.learning.blocks import keep_blocks
from distill.loss.fused import head_losses
from distill.loss.terms import LossTerms
from distill.run.logs import read_metrics
from distill.run.train import train
from distill.settings.config import TrainConfig
from distill.settings.recipe import DIVERGENCES
from evaluation.config import GenerationSettings
from evaluation.generation.generate import Request, generate
from tests.support.cut_models import model_of
from tests.support.distill_fakes import FakeReader, Interrupt, config_for, small_recipe
from tests.support.head_inputs import make_head, make_targets
from tests.support.paths import EXAMPLES, ROOT

pytestmark = pytest.mark.gpu
DEVICE = default_device()
HALVES = {torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest relative error of a loss whose products have 8 and 11 bits."""


@pytest.fixture(scope="module", params=TAILS)
def built(request, tmp_path_factory, tiny_teacher) -> Path:
    """A cache of each tail, built on the accelerator."""
    out = tmp_path_factory.mktemp("gpu") / request.param
    targets = TargetFormat(top_k=16, tail=request.param)
    config = BuildConfig(
        out=out, teacher=str(tiny_teacher), dataset=str(EXAMPLES), limit=12, targets=targets
    )
    build_cache(config)
    return out


def test_a_cache_is_sound_and_holds_what_the_cpu_computes(built):
    assert verify_cache(built) == []
    report = verify_live(built, num_documents=12, seed=0, device_map="cpu")
    assert report.problems == []


def test_a_basis_codes_where_it_was_fitted():
    """As it is fitted, before anything has moved it."""
    width, vocab = 24, 200
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(vocab, width, generator=generator)
    hidden = torch.randn(400, width, generator=generator)
    codes = []
    for device in (torch.device("cpu"), DEVICE):
        weight, states = head.to(device), hidden.to(device)
        fit = BasisFit(weight, None)
        logits = states @ weight.T
        fit.add(states, logits, logits.topk(8).indices)
        basis = fit.finish(width, None)
        scale = torch.ones(len(states), device=device)
        rebuilt = basis.dequantise(basis.quantise(states, scale), scale) @ basis.basis.float().T
        codes.append((rebuilt + basis.mean).cpu())
        assert (codes[-1] - logits.cpu()).std() < 0.1 * logits.std().cpu()
    torch.testing.assert_close(codes[1], codes[0], rtol=0, atol=0.5)


def test_pinned_batches_are_those_on_the_cpu(built):
    with CacheReader(built) as reader:
        plan = plan_epoch(
            reader.document_lengths("train"),
            reader.document_blocks("train"),
            batch_size=4,
            accumulate=1,
            seed=0,
            epoch=0,
        )
        source = {"reader": reader, "split": "train", "pad_id": 0, "loss_on": "all"}
        pinned = BatchSource(**source, pinned=DEVICE.type == "cuda")
        for moved, there in zip(pinned.steps(plan), BatchSource(**source).steps(plan), strict=True):
            for one, other in zip(moved, there, strict=True):
                one = one.to(DEVICE)
                assert torch.equal(one.input_ids.cpu(), other.input_ids)
                found = one.targets.at(2.0).to_dense(reader.vocab_size).cpu()
                expected = other.targets.at(2.0).to_dense(reader.vocab_size)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("tail", ["mass", "hidden", "lowrank"])
def test_loss_and_gradients_are_those_of_the_cpu(divergence, tail):
    terms = LossTerms(temperature=1.7, alpha=0.6, divergence=divergence)
    expected, *gradients = loss_on(torch.device("cpu"), torch.float64, tail, terms)
    found, *others = loss_on(DEVICE, torch.float32, tail, terms)
    assert found == pytest.approx(expected, rel=1e-4)
    for one, other in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("tail", ["mass", "hidden", "lowrank"])
def test_loss_under_autocast_is_near_that_of_the_cpu(dtype, tail):
    if dtype == torch.float16 and DEVICE.type == "cpu":
        pytest.skip("fp16 is for accelerators")
    terms = LossTerms(temperature=2.0, alpha=0.5)
    expected, *gradients = loss_on(torch.device("cpu"), torch.float64, tail, terms)
    with torch.autocast(DEVICE.type, dtype):
        found, *others = loss_on(DEVICE, torch.float32, tail, terms)
    assert found == pytest.approx(expected, rel=HALVES[dtype])
    for one, other in zip(others, gradients, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999


def loss_on(device, dtype, tail, terms) -> tuple[float, torch.Tensor, torch.Tensor]:
    """The loss and its two gradients, brought back as float64."""
    hidden, weight, labels = make_head(rows=300, width=64, vocab=1000)
    inputs = [t.detach().to(device, dtype).requires_grad_() for t in (hidden, weight)]
    targets = make_targets(tail, rows=300, vocab=1000, top_k=16).to(device)
    loss = head_losses(*inputs, labels.to(device), targets, terms).loss
    gradients = torch.autograd.grad(loss, inputs)
    return float(loss.detach()), *(gradient.double().cpu() for gradient in gradients)


def test_a_run_in_fp32_follows_the_losses_of_the_cpu(tmp_path):
    reader = FakeReader(tmp_path / "cache")
    recipe = {"epochs": 5, "accumulate": 3, "dropout": 0.0, "seed": 7, "lr": 5e-3}
    train(config_for(reader, tmp_path / "run", precision="fp32", **recipe), reader=reader)
    golden = json.loads((ROOT / "tests/golden/distill_loss_curve.json").read_text())
    assert losses_of(tmp_path / "run") == pytest.approx(golden["train_loss"], abs=2e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_half_precision_ends_near_that_in_fp32(precision, tmp_path):
    if precision == "fp16" and DEVICE.type == "cpu":
        pytest.skip("fp16 has its scaler on accelerators only")
    reader = FakeReader(tmp_path / "cache")
    ends = {}
    for name in ("fp32", precision):
        config = config_for(reader, tmp_path / name, epochs=6, lr=1e-2, dropout=0.0, precision=name)
        ends[name] = train(config, reader=reader).losses["val_loss"]
    assert ends[precision] == pytest.approx(ends["fp32"], rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "auto", "fp16"])
def test_an_interrupted_run_goes_on_as_the_whole_one_does(precision, tmp_path):
    if precision == "fp16" and DEVICE.type == "cpu":
        pytest.skip("fp16 has its scaler on accelerators only")
    reader = FakeReader(tmp_path / "cache")
    recipe = {"epochs": 4, "lr": 5e-3, "precision": precision}
    train(config_for(reader, tmp_path / "whole", **recipe), reader=reader)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(config_for(reader, out, **recipe), reader=Interrupt(reader, 25, KeyboardInterrupt()))
    resumed = train(config_for(reader, out, resume=True, **recipe), reader=reader)
    assert resumed.resumed_from_step
    assert losses_of(out) == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-2)


def losses_of(run: Path) -> list[float]:
    lines = read_metrics(run / "metrics.jsonl")
    return [line["train_loss"] for line in lines if "train_loss" in line]


def test_compiled_and_checkpointed_students_learn_as_plain_ones(tiny_cache, tmp_path):
    ends = []
    for number, recipe in enumerate(({}, {"gradient_checkpointing": True}, {"compile": True})):
        changed = small_recipe(dropout=0.0, precision="fp32", epochs=1, **recipe)
        out = tmp_path / str(number)
        config = TrainConfig(cache=tiny_cache, recipe=changed, out=out, wandb="disabled")
        ends.append(train(config).losses["val_loss"])
    assert ends == pytest.approx([ends[0]] * 3, rel=1e-3)


def test_a_cut_is_fitted_as_on_the_cpu():
    texts = [torch.arange(start, start + 24) for start in range(1, 70, 3)]
    found = []
    for device in ("cpu", DEVICE):
        model = model_of("qwen2").to(device)
        flows = flows_of(model, texts)
        keep_blocks(model, [0, 1, 3])
        reconstruct(model, flows, [0, 1, 3])
        found.append([part.output.weight.detach().cpu() for part in feed_forwards(model)])
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-2, atol=1e-3)


def test_greedy_completions_are_those_of_the_cpu(tiny_teacher):
    tokenizer = load_tokenizer(str(tiny_teacher))
    prompts = ["def add(a, b):", "import math\n\n\ndef area(radius):", "x = "]
    requests = [
        Request(task_id=str(n), sample=0, prompt_ids=tuple(tokenizer(text).input_ids), stop=())
        for n, text in enumerate(prompts)
    ]
    settings = GenerationSettings(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=24, seed=0)
    texts = {}
    for device in ("cpu", DEVICE):
        model = load_causal_lm(str(tiny_teacher), device_map=None).to(device)
        texts[str(device)] = [one.text for one in generate(model, tokenizer, requests, settings)]
    assert texts[str(DEVICE)] == texts["cpu"]
