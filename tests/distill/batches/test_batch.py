"""Batches: their documents laid out in rows, which rows count, and reading ahead."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from cache.errors import CacheError
from distill.batches.batch import BatchSource, collate
from distill.batches.epoch_plan import plan_epoch
from distill.batches.epochs import Epochs
from distill.batches.prefetch import prefetch
from distill.learning.objective import row_states
from distill.learning.student import build_student
from distill.settings.shapes import parse_shape
from tests.support.distill_fakes import FakeReader, small_recipe


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


def test_rows_point_at_the_token_before_the_label(reader):
    documents = reader.read("train", [3, 0, 5])
    batch = collate(documents, pad_id=0)
    assert batch.num_rows == batch.targets.num_rows == len(documents.token_ids) - 3
    assert batch.task_ids == (603, 600, 605)
    assert batch.num_tokens == len(documents.token_ids)
    starts, ends = documents.token_offsets[:-1], documents.token_offsets[1:]
    spans = list(zip(starts, ends, strict=True))
    before = np.concatenate([documents.token_ids[start : end - 1] for start, end in spans])
    after = np.concatenate([documents.token_ids[start + 1 : end] for start, end in spans])
    assert batch.input_ids.flatten()[batch.places].tolist() == before.tolist()
    assert batch.labels.tolist() == after.tolist()


def test_documents_are_padded_on_the_right(reader):
    lengths = reader.document_lengths("train")[[0, 1, 2]]
    batch = collate(reader.read("train", [0, 1, 2]), pad_id=63)
    assert batch.input_ids.shape == (3, lengths.max())
    for tokens, length in zip(batch.input_ids, lengths, strict=True):
        assert tokens[length - 1] == 0
        assert (tokens[length:] == 63).all()


def test_loss_on_completion_keeps_the_rows_whose_label_is_code(reader):
    documents = reader.read("train", [4, 2])
    batch = collate(documents, pad_id=0, loss_on="completion")
    expected_labels = []
    for start, end, prompt in zip(
        documents.token_offsets[:-1],
        documents.token_offsets[1:],
        documents.prompt_lengths,
        strict=True,
    ):
        expected_labels += documents.token_ids[start + prompt : end].tolist()
    assert batch.labels.tolist() == expected_labels
    assert batch.targets.num_rows == batch.num_rows == len(expected_labels)
    whole = collate(documents, pad_id=0)
    kept = torch.isin(whole.places, batch.places)
    assert torch.equal(whole.targets.topk_logprobs[kept], batch.targets.topk_logprobs)


def test_a_batch_can_keep_the_rows_that_do_not_count(reader):
    documents = reader.read("train", [4, 2])
    kept = collate(documents, pad_id=0, loss_on="completion", keeps_rows=True)
    assert torch.equal(kept.places, collate(documents, pad_id=0).places)
    counting, wanted = kept.select(kept.counted), collate(documents, pad_id=0, loss_on="completion")
    assert torch.equal(counting.labels, wanted.labels) and counting.counted is None
    assert torch.equal(counting.targets.topk_logprobs, wanted.targets.topk_logprobs)
    assert collate(documents, pad_id=0, keeps_rows=True).counted is None


def make_student(reader, **options):
    torch.manual_seed(0)
    return build_student(
        parse_shape("2x32x2"),
        vocab_size=reader.vocab_size,
        max_length=reader.max_length,
        tokenizer=AutoTokenizer.from_pretrained(reader.tokenizer_path),
        dropout=0.0,
        **options,
    )


def states_and_gradient(student, batches):
    """Hidden states of the rows, and the gradient of a sum that depends on each of them."""
    student.zero_grad()
    states = torch.cat([row_states(student, batch) for batch in batches])
    weights = torch.linspace(-1, 1, states.numel()).reshape(states.shape)
    (states * weights).sum().backward()
    gradients = [p.grad.clone() for p in student.transformer.parameters() if p.grad is not None]
    return student.lm_head(states.detach()), gradients


def test_packed_documents_have_the_logits_and_the_gradient_that_each_has_alone(reader):
    student = make_student(reader)
    indices, per_sequence = [3, 0, 5, 1, 2], [2, 1, 2]  # the middle row ends in padding
    packed = collate(reader.read("train", indices), pad_id=0, per_sequence=per_sequence)
    alone = [collate(reader.read("train", [index]), pad_id=0) for index in indices]
    assert packed.input_ids.shape[0] == 3
    logits, gradient = states_and_gradient(student, [packed])
    expected_logits, expected_gradient = states_and_gradient(student, alone)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=0)
    assert len(gradient) == len(expected_gradient) > 20
    for actual, expected in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_without_positions_packed_documents_would_see_each_other(reader):
    student = make_student(reader)
    packed = collate(reader.read("train", [3, 0]), pad_id=0, per_sequence=[2])
    leaking = replace(packed, position_ids=None)
    difference = row_states(student, packed) - row_states(student, leaking)
    assert difference.abs().max() > 1e-2


def test_packed_rows_hold_the_same_tokens_labels_and_targets(reader):
    documents = reader.read("train", [4, 2, 7])
    for loss_on in ("all", "completion"):
        apart = collate(documents, pad_id=0, loss_on=loss_on)
        packed = collate(documents, pad_id=63, loss_on=loss_on, per_sequence=[3])
        assert packed.position_ids is not None and apart.position_ids is None
        assert packed.labels.tolist() == apart.labels.tolist()
        assert packed.num_tokens == apart.num_tokens == packed.input_ids.numel()
        inputs = [batch.input_ids.flatten()[batch.places].tolist() for batch in (packed, apart)]
        assert inputs[0] == inputs[1]
        assert torch.equal(packed.targets.topk_ids, apart.targets.topk_ids)
    lengths = np.diff(documents.token_offsets)
    expected = np.concatenate([np.arange(length) for length in lengths])
    assert packed.position_ids.flatten().tolist() == expected.tolist()


def test_every_tensor_of_a_batch_is_pinned(reader, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    batch = collate(reader.read("train", [1, 2]), pad_id=0, per_sequence=[2]).pin_memory()
    targets = batch.targets
    expected = [batch.input_ids, batch.position_ids, batch.places, batch.labels]
    expected += [targets.topk_ids, targets.topk_logprobs, targets.tail.log_mass]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in expected}


def source(reader, rank, world_size):
    return BatchSource(
        reader=reader, split="train", pad_id=0, loss_on="all", rank=rank, world_size=world_size
    )


@pytest.mark.parametrize("capacity", [None, 40])
def test_processes_share_the_documents_and_have_equally_many_microbatches(reader, capacity):
    plan = plan_epoch(
        reader.document_lengths("train"),
        reader.document_blocks("train"),
        batch_size=2,
        accumulate=5,
        seed=0,
        epoch=0,
        capacity=capacity,
        world_size=2,
    )
    shares = [list(source(reader, rank, 2).steps(plan)) for rank in (0, 1)]
    assert [len(step) for step in shares[0]] == [len(step) for step in shares[1]]
    seen = [b for share in shares for step in share for b in step if b.num_rows]
    tasks = sorted(task_id - 600 for batch in seen for task_id in batch.task_ids)
    assert tasks == list(range(24))
    without = [b for step in shares[1] for b in step if not b.num_rows]
    assert [batch.num_tokens for batch in without] == [0] * len(without)
    assert bool(without) == (capacity is None)  # 5 microbatches; packed ones are made even


def tensors(steps):
    return [
        (b.input_ids, b.places, b.labels, b.targets.topk_ids, b.targets.topk_logprobs)
        for step in steps
        for b in step
    ]


@pytest.mark.parametrize("batching", ["grouped", "packed"])
@pytest.mark.parametrize("first_step", [0, 1, 4, 6])
def test_an_epoch_begins_at_any_step_without_reading_what_came_before(reader, batching, first_step):
    epochs = Epochs(reader, small_recipe(batching=batching), pad_id=0)
    assert epochs.steps_per_epoch == 6
    with epochs.training_steps(1) as steps:
        whole = list(steps)
    num_reads = reader.num_reads
    with epochs.training_steps(1, first_step) as steps:
        rest = list(steps)
    assert reader.num_reads - num_reads == sum(len(step) for step in whole[first_step:])
    assert len(rest) == 6 - first_step
    for ours, theirs in zip(tensors(rest), tensors(whole[first_step:]), strict=True):
        for actual, expected in zip(ours, theirs, strict=True):
            assert torch.equal(actual, expected)


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_an_epoch_left_early_leaves_no_thread(reader, monkeypatch):
    read = reader.read

    def slowly(split, indices):
        time.sleep(0.2)
        return read(split, indices)

    monkeypatch.setattr(reader, "read", slowly)  # or all is read before this thread looks
    epochs = Epochs(reader, small_recipe(), pad_id=0)
    with epochs.training_steps(0) as steps:
        next(steps)
        assert reading_threads()
    assert not reading_threads()
    with epochs.validation_steps() as steps:
        next(steps)
        assert reading_threads()
    assert not reading_threads()


def test_damage_met_while_reading_ahead_is_raised_in_the_training_loop(
    tmp_path_factory, monkeypatch
):
    reader = FakeReader(tmp_path_factory.mktemp("cache"))
    read = reader.read

    def failing(split, indices):
        if reader.num_reads == 5:
            raise CacheError("shard-00000.h5 is damaged")
        return read(split, indices)

    monkeypatch.setattr(reader, "read", failing)
    num_steps = 0
    epochs = Epochs(reader, small_recipe(), pad_id=0)
    with pytest.raises(CacheError, match="shard-00000.h5 is damaged"):
        with epochs.training_steps(0) as steps:
            for _ in steps:
                num_steps += 1
    assert num_steps == 2
    assert not reading_threads()


def test_prefetch_keeps_the_order_and_reads_ahead_in_another_thread():
    threads = set()

    def items():
        for number in range(20):
            threads.add(threading.current_thread().name)
            yield number

    assert list(prefetch(items())) == list(range(20))
    assert threads == {"prefetch"}


def test_prefetch_raises_what_reading_raised_after_what_came_before():
    def items():
        yield 1
        raise OSError("disk gone")

    received = []
    with pytest.raises(OSError, match="disk gone"):
        for item in prefetch(items()):
            received.append(item)
    assert received == [1]


def test_prefetch_is_bounded_and_stops_when_the_consumer_does():
    produced = []

    def items():
        for number in range(1000):
            produced.append(number)
            yield number

    ahead = prefetch(items(), depth=2)
    assert next(ahead) == 0
    ahead.close()
    assert len(produced) <= 5
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_ctrl_c_while_the_thread_starts_leaves_no_thread(monkeypatch):
    """One left behind dies inside h5py, whose lock then nobody gives back: the process hangs."""
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(prefetch(itertools.count()))
    assert not reading_threads()
