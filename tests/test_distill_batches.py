"""Batches: which documents, in which order, which rows; and reading ahead."""

import threading

import numpy as np
import pytest
import torch
from distill_fakes import FakeReader

from distill.batches import BatchSource, collate, plan_steps
from distill.prefetch import prefetch


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return FakeReader(tmp_path_factory.mktemp("cache"))


def mbpp_like_lengths(seed):
    drawn = np.random.default_rng(seed).lognormal(np.log(170), 0.45, 374)
    return drawn.astype(np.int64).clip(30, 512)


def plan(lengths, **changed):
    options = {"batch_size": 4, "accumulate": 4, "seed": 0, "epoch": 0}
    return plan_steps(lengths, **{**options, **changed})


def flat(steps):
    return [int(index) for step in steps for batch in step for index in batch]


def test_every_document_comes_once_an_epoch():
    steps = plan(mbpp_like_lengths(0))
    assert sorted(flat(steps)) == list(range(374))
    assert len(steps) == 24
    assert [len(step) for step in steps] == [4] * 23 + [2]


def test_order_follows_from_seed_and_epoch():
    lengths = mbpp_like_lengths(0)
    assert flat(plan(lengths, seed=3, epoch=2)) == flat(plan(lengths, seed=3, epoch=2))
    assert flat(plan(lengths, epoch=1)) != flat(plan(lengths, epoch=0))
    assert flat(plan(lengths, seed=1)) != flat(plan(lengths, seed=0))


def test_other_documents_meet_in_other_epochs():
    lengths = mbpp_like_lengths(0)
    meetings = [
        {tuple(sorted(batch)) for step in plan(lengths, epoch=epoch) for batch in step}
        for epoch in (0, 1)
    ]
    assert len(meetings[0] & meetings[1]) < 10


@pytest.mark.parametrize("seed", range(5))
def test_padding_is_under_a_tenth_on_lengths_like_mbpps(seed):
    lengths = mbpp_like_lengths(seed)
    assert 170 < lengths.mean() < 210
    batches = [batch for step in plan(lengths, seed=seed) for batch in step]
    positions = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert 1 - lengths.sum() / positions < 0.10


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
    assert batch.input_ids.flatten()[batch.rows].tolist() == before.tolist()
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
    kept = torch.isin(whole.rows, batch.rows)
    assert torch.equal(whole.targets.topk_logprobs[kept], batch.targets.topk_logprobs)


def source(reader, rank, world_size):
    return BatchSource(
        reader=reader, split="train", pad_id=0, loss_on="all", rank=rank, world_size=world_size
    )


def test_processes_share_the_documents_and_have_equally_many_microbatches(reader):
    steps = plan(reader.document_lengths("train"), batch_size=2, accumulate=3)[:2]
    steps.append(steps.pop()[:1])  # a last step too short for two processes
    shares = [list(source(reader, rank, 2).steps(steps)) for rank in (0, 1)]
    assert [len(step) for step in shares[0]] == [len(step) for step in shares[1]]
    seen = [b for share in shares for step in share for b in step if b.num_rows]
    tasks = sorted(task_id - 600 for batch in seen for task_id in batch.task_ids)
    assert tasks == sorted(flat(steps))
    assert shares[1][-1][-1].num_rows == shares[1][-1][-1].num_tokens == 0


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
