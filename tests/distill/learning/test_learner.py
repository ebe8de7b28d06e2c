"""The optimizer step: gradients do not depend on how documents are cut into microbatches."""

import copy
import gc
import math
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from distill.errors import DistillError
from distill.learning.learner import Learner
from distill.learning.objective import row_states
from distill.learning.precision import start_accelerator
from distill.run.checkpoint import seed_process
from tests.support.distill_fakes import VOCAB_SIZE, FakeReader, small_recipe
from tests.support.learners import batches, gradient, make_learner
from tests.support.reference import kl, softmax


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("loss_on", ["all", "completion"])
def test_accumulation_does_not_change_the_gradient(reader, loss_on):
    assert len(set(reader.document_lengths("train")[:4])) > 2  # ragged
    one = gradient(make_learner(reader), batches(reader, [[0, 1, 2, 3]], loss_on=loss_on))
    four = gradient(make_learner(reader), batches(reader, [[0], [1], [2], [3]], loss_on=loss_on))
    assert one[0].num_rows == four[0].num_rows
    assert one[0].loss == pytest.approx(four[0].loss, abs=1e-6)
    for expected, actual in zip(one[1], four[1], strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-7, rtol=1e-4)


def test_a_microbatch_without_rows_changes_nothing(reader):
    full = batches(reader, [[0, 1]])
    nothing = full[0].select(torch.empty(0, dtype=torch.int64))
    expected = gradient(make_learner(reader), full)
    actual = gradient(make_learner(reader), [nothing, *full])
    assert actual[0].loss == expected[0].loss
    for one, other in zip(expected[1], actual[1], strict=True):
        assert torch.equal(one, other)


def test_padding_never_matters(reader):
    batch = batches(reader, [[0, 1, 2]])[0]
    lengths = reader.document_lengths("train")[:3]
    learner = make_learner(reader)
    expected = gradient(learner, [batch])
    garbage = batch.input_ids.clone()
    for place, length in enumerate(lengths):
        garbage[place, length:] = torch.randint(1, 64, (garbage.shape[1] - length,))
    wider = torch.cat([garbage, torch.full((3, 7), 9)], 1)
    rows = batch.places // garbage.shape[1] * wider.shape[1] + batch.places % garbage.shape[1]
    actual = gradient(make_learner(reader), [replace(batch, input_ids=wider, places=rows)])
    assert actual[0].loss == pytest.approx(expected[0].loss, abs=1e-6)
    for one, other in zip(expected[1], actual[1], strict=True):
        torch.testing.assert_close(other, one, atol=1e-7, rtol=1e-4)


def test_states_without_a_mask_are_those_of_the_model_with_one(reader):
    batch = batches(reader, [[0, 1, 2]])[0]
    lengths = torch.from_numpy(reader.document_lengths("train")[:3])
    mask = torch.arange(batch.input_ids.shape[1]) < lengths.unsqueeze(1)
    student = make_learner(reader).student.eval()
    with torch.no_grad():
        states = row_states(student, batch)
        logits = student(batch.input_ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(student.lm_head(states), logits.flatten(0, 1)[batch.places])


def test_losses_are_those_of_the_formula_on_dense_logits(reader):
    batch = batches(reader, [[0, 1]])[0]
    learner = make_learner(reader, temperature=1.7, alpha=0.3)
    losses = learner.measure([[batch]])
    with torch.no_grad():
        logits = learner.student(batch.input_ids).logits.flatten(0, 1)[batch.places].double()
    target = batch.targets.at(1.7)
    dense = target.to_dense(64).double()
    kl = (dense * (dense.log() - (logits / 1.7).log_softmax(-1))).sum(-1).mean() * 1.7**2
    ce = -logits.log_softmax(-1).gather(1, batch.labels.unsqueeze(1)).mean()
    assert losses.distillation == pytest.approx(kl.item(), rel=1e-5)
    assert losses.ce == pytest.approx(ce.item(), rel=1e-5)
    assert losses.loss == pytest.approx(0.3 * kl.item() + 0.7 * ce.item(), rel=1e-5)


def test_yardsticks_are_at_temperature_1_over_all_rows_whatever_the_recipe(reader):
    learner = make_learner(reader, temperature=3.0, alpha=0.9, divergence="reverse_kl")
    whole = batches(reader, [[0, 1]])[0]
    parts = batches(reader, [[0], [1]], loss_on="completion", keeps_rows=True)
    counted = batches(reader, [[0, 1]], loss_on="completion")[0]
    assert counted.num_rows < whole.num_rows == sum(part.num_rows for part in parts)
    found = learner.measure([parts[:1], parts[1:]])
    with torch.no_grad():
        logits = learner.student(whole.input_ids).logits.flatten(0, 1)[whole.places].tolist()
    teacher = whole.targets.at(1.0).to_dense(VOCAB_SIZE).tolist()
    students = [softmax(row, 1.0) for row in logits]
    rows = list(zip(teacher, students, whole.labels.tolist(), strict=True))
    assert found.kl == pytest.approx(sum(kl(p, q) for p, q, _ in rows) / len(rows), rel=1e-5)
    entropy = -sum(math.log(q[label]) for _, q, label in rows) / len(rows)
    assert found.cross_entropy == pytest.approx(entropy, rel=1e-5)
    alike = sum(p.index(max(p)) == q.index(max(q)) for p, q, _ in rows)
    assert found.top1 == pytest.approx(alike / len(rows))
    # The losses are those of the rows that count.
    assert found.loss == pytest.approx(learner.measure([[counted]]).loss, rel=1e-5)
    assert found.num_rows == counted.num_rows and found.num_tokens == whole.num_tokens


def test_measuring_neither_learns_nor_drops_out(reader):
    learner = make_learner(reader, dropout=0.5)
    before = copy.deepcopy(learner.student.state_dict())
    data = batches(reader, [[0, 1], [2]])
    first, second = learner.measure([data]), learner.measure([data[:1], data[1:]])
    assert first.loss == pytest.approx(second.loss, abs=1e-6)
    assert all(torch.equal(before[k], v) for k, v in learner.student.state_dict().items())


def test_gradient_is_clipped_and_its_norm_before_that_is_reported(reader):
    learner = make_learner(reader, clip=0.01)
    _, norm = learner.train_step(batches(reader, [[0, 1]]), step=1)
    assert norm > 0.01
    learner.accumulate_gradients(batches(reader, [[0, 1]]), step=2)
    learner.accelerator.clip_grad_norm_(learner.student.parameters(), 0.01)
    clipped = torch.stack([p.grad.norm() for p in learner.student.parameters()]).norm()
    assert clipped <= 0.0101


def test_a_loss_that_is_not_finite_names_step_and_problems_and_leaves_the_weights(reader):
    learner = make_learner(reader)
    good, bad = batches(reader, [[0, 1], [2, 3]])
    bad.targets.topk_logprobs[0, 0] = float("nan")
    before = copy.deepcopy(learner.student.state_dict())
    with pytest.raises(
        DistillError, match=r"the loss became nan at step 17, with problems 602, 603\..*lower lr"
    ):
        learner.train_step([good, bad], step=17)
    assert all(torch.equal(before[k], v) for k, v in learner.student.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_too(reader):
    learner = make_learner(reader)
    learner.student.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DistillError, match="the gradient's norm became .* at step 3"):
        learner.train_step(batches(reader, [[0]]), step=3)


def test_bf16_runs_under_autocast_with_fp32_losses(reader):
    learner = make_learner(reader)
    expected = learner.measure([batches(reader, [[0, 1]])])
    seed_process(0, rank=0)
    recipe, accelerator = small_recipe(dropout=0.0), start_accelerator("bf16")
    half = Learner(learner.student, recipe, accelerator, num_steps=10)
    losses, _ = half.train_step(batches(reader, [[0, 1]]), step=1)
    assert losses.loss == pytest.approx(expected.loss, rel=0.01)
    assert losses.loss != expected.loss
    assert all(parameter.dtype == torch.float32 for parameter in half.student.parameters())


def fp16_learner(reader, *, init_scale):
    """What `start_accelerator` gives on a GPU for fp16, which accelerate refuses on CPUs."""
    student = make_learner(reader).student
    accelerator = start_accelerator("fp32")
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    return Learner(student, small_recipe(dropout=0.0), accelerator, num_steps=10)


def test_fp16_with_a_loss_scaler_has_nearly_the_gradient_of_fp32(reader):
    data = batches(reader, [[0, 1], [2]])
    expected = make_learner(reader).train_step(data, step=1)
    learner = fp16_learner(reader, init_scale=2.0**10)
    actual = learner.train_step(data, step=1)
    assert actual[0].loss == pytest.approx(expected[0].loss, rel=1e-3)
    assert actual[0].loss != expected[0].loss
    assert actual[1] == pytest.approx(expected[1], rel=0.02)


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_next_scaled_less(reader):
    learner = fp16_learner(reader, init_scale=2.0**40)
    before = copy.deepcopy(learner.student.state_dict())
    _, norm = learner.train_step(batches(reader, [[0, 1]]), step=1)
    assert not math.isfinite(norm)
    assert learner.accelerator.scaler.get_scale() == 2.0**39
    assert all(torch.equal(before[k], v) for k, v in learner.student.state_dict().items())


def test_an_overflow_that_no_scale_prevents_stops(reader):
    learner = fp16_learner(reader, init_scale=4.0)
    learner.student.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    data = batches(reader, [[0]])
    for step in (1, 2):
        learner.train_step(data, step=step)
    with pytest.raises(
        DistillError, match=r"at loss scale 1 the gradient's norm became .* at step 3.*problems 600"
    ):
        learner.train_step(data, step=3)


def test_gradient_checkpointing_changes_no_bit(reader):
    data = batches(reader, [[0, 1], [2]])
    learners = [
        make_learner(reader, dropout=0.1, gradient_checkpointing=flag) for flag in (False, True)
    ]
    blocks = [learner.student.transformer.h[0] for learner in learners]
    assert [block.gradient_checkpointing for block in blocks] == [False, True]
    results = []
    for learner in learners:
        seed_process(3, rank=0)
        results.append(gradient(learner, data))
    assert results[0][0] == results[1][0]
    for expected, actual in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(actual, expected)


def test_compile_without_a_compiler_says_what_to_do(reader, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    torch._dynamo.reset()
    with pytest.raises(
        DistillError,
        match=r"compile: true.*nothing for cpu.*apt-get install g\+\+.*without compile",
    ):
        make_learner(reader, compile=True)
    torch._dynamo.reset()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_are_compiled_once_for_all_lengths_and_layers(reader, monkeypatch, checkpointing):
    """With dynamo's own backend, which builds no kernels: it traces as all others do."""
    monkeypatch.setattr("distill.learning.trunk.require_compiler", lambda device: None)
    compile_it = torch.nn.Module.compile
    monkeypatch.setattr(
        "torch.nn.Module.compile", lambda self, **how: compile_it(self, **how, backend="eager")
    )
    torch._dynamo.reset()
    counters.clear()
    recipe = {"student": "3x16x1", "gradient_checkpointing": checkpointing}
    plain, compiled = make_learner(reader, **recipe), make_learner(reader, **recipe, compile=True)
    for groups in ([[0, 1]], [[2, 3, 4]]):
        expected = gradient(plain, batches(reader, groups))
        actual = gradient(compiled, batches(reader, groups))
        for one, other in zip(expected[1], actual[1], strict=True):
            torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_trunk_has_the_same_gradient_at_every_length_and_the_same_names(reader):
    plain, compiled = make_learner(reader), make_learner(reader, compile=True)
    packed = {"per_sequence": [2, 1]}
    for groups, options in (([[0, 1]], {}), ([[2], [3, 4]], {}), ([[5, 6, 7]], packed)):
        expected = gradient(plain, batches(reader, groups, **options))
        actual = gradient(compiled, batches(reader, groups, **options))
        assert actual[0].loss == pytest.approx(expected[0].loss, rel=1e-5)
        for one, other in zip(expected[1], actual[1], strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-3)
    assert plain.student.state_dict().keys() == compiled.student.state_dict().keys()


def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(DistillError, match="precision is fp16, but the device is cpu"):
        start_accelerator("fp16")


def test_measuring_keeps_no_batch(reader):
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    def steps():
        for document in range(8):
            one = batches(reader, [[document]])
            alive.update(one)
            yield one
            del one
            gc.collect()
            most.append(len(alive))

    make_learner(reader).measure(steps())
    assert len(most) == 8 and max(most) <= 2  # the one that comes and the one that goes
