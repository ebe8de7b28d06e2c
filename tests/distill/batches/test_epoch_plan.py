"""Plans of an epoch: which documents together, in which order, known before any is read."""

import numpy as np
import pytest

from distill.batches.epoch_plan import plan_epoch
from distill.batches.packing import first_fit, pack
from distill.batches.shuffle import WINDOW_BLOCKS, shuffle


def mbpp_like_lengths(seed, count=374):
    drawn = np.random.default_rng(seed).lognormal(np.log(170), 0.45, count)
    return drawn.astype(np.int64).clip(30, 512)


def plan(lengths, **changed):
    options = {"batch_size": 4, "accumulate": 4, "seed": 0, "epoch": 0}
    return plan_epoch(lengths, np.arange(len(lengths)) // 150, **{**options, **changed})


def steps_of(plan):
    return [plan.step(number) for number in range(len(plan))]


def flat(steps):
    return [int(index) for step in steps for batch in step for row in batch for index in row]


@pytest.mark.parametrize("capacity", [None, 512])
def test_every_document_comes_once_an_epoch(capacity):
    steps = steps_of(plan(mbpp_like_lengths(0), capacity=capacity))
    assert sorted(flat(steps)) == list(range(374))
    assert [sum(len(row) for batch in step for row in batch) for step in steps] == [16] * 23 + [6]


def test_grouped_documents_have_a_row_each():
    steps = steps_of(plan(mbpp_like_lengths(0)))
    assert [len(step) for step in steps] == [4] * 23 + [2]
    assert {len(batch) for step in steps[:-1] for batch in step} == {4}
    assert {len(row) for step in steps for batch in step for row in batch} == {1}


@pytest.mark.parametrize("capacity", [None, 512])
def test_order_follows_from_seed_and_epoch(capacity):
    def order(**changed):
        return flat(steps_of(plan(mbpp_like_lengths(0), capacity=capacity, **changed)))

    assert order(seed=3, epoch=2) == order(seed=3, epoch=2)
    assert order(epoch=1) != order(epoch=0)
    assert order(seed=1) != order(seed=0)


def test_other_documents_meet_in_other_epochs():
    meetings = [
        {
            tuple(sorted(flat([[batch]])))
            for step in steps_of(plan(mbpp_like_lengths(0), epoch=epoch))
            for batch in step
        }
        for epoch in (0, 1)
    ]
    assert len(meetings[0] & meetings[1]) < 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [None, 512])
def test_padding_is_under_a_tenth_on_lengths_like_mbpps(seed, capacity):
    lengths = mbpp_like_lengths(seed)
    assert 170 < lengths.mean() < 210
    steps = steps_of(plan(lengths, seed=seed, capacity=capacity))
    positions = 0
    for batch in (batch for step in steps for batch in step):
        positions += max(int(lengths[row].sum()) for row in batch) * len(batch)
    assert 1 - lengths.sum() / positions < 0.10


def test_packed_steps_have_fewer_and_even_microbatches():
    lengths = mbpp_like_lengths(0)
    for world_size in (1, 2, 4):
        for step in steps_of(plan(lengths, capacity=512, world_size=world_size))[:-1]:
            rows = [len(batch) for batch in step]
            assert max(rows) <= 4 and max(rows) - min(rows) <= 1
            assert len(step) % world_size == 0
            assert world_size > 1 or len(step) in (2, 3)
            assert max(lengths[row].sum() for batch in step for row in batch) <= 512


def test_the_documents_of_a_step_do_not_depend_on_the_number_of_processes():
    lengths = mbpp_like_lengths(1)
    alone, shared = (steps_of(plan(lengths, capacity=512, world_size=n)) for n in (1, 4))
    for ours, theirs in zip(alone, shared, strict=True):
        assert sorted(flat([ours])) == sorted(flat([theirs]))


@pytest.mark.parametrize("seed", range(20))
def test_packing_keeps_documents_whole_in_few_rows_of_like_length(seed):
    lengths = mbpp_like_lengths(seed, count=40)
    for rows in (first_fit(lengths, 512), pack(lengths, 512)):
        assert sorted(document for row in rows for document in row) == list(range(40))
        assert max(lengths[row].sum() for row in rows) <= 512
        assert len(rows) <= 11 / 9 * np.ceil(lengths.sum() / 512) + 1
    filled = [lengths[row].sum() for row in pack(lengths, 512)]
    assert min(filled) > 0.7 * max(filled)


def test_documents_that_do_not_fit_together_have_rows_of_their_own():
    assert pack([300, 300, 300], 512) == [[0], [1], [2]]
    assert pack([5, 5], 512) == [[0, 1]]
    assert pack([512], 512) == [[0]]
    # Two rows of 6 would do, but balancing puts 7 into one.
    assert sorted(map(sorted, pack([3, 3, 2, 2, 2], 6))) == [[0, 4], [1], [2, 3]]


def blocks_in_use(order, blocks):
    """At every place of the order, how many blocks are begun and not yet done with."""
    sequence = blocks[order]
    first, last = np.full(blocks.max() + 1, len(order)), np.zeros(blocks.max() + 1, dtype=int)
    np.minimum.at(first, sequence, np.arange(len(order)))
    np.maximum.at(last, sequence, np.arange(len(order)))
    changes = np.bincount(first, minlength=len(order) + 1)
    changes -= np.bincount(last + 1, minlength=len(order) + 1)
    return changes.cumsum()


@pytest.mark.parametrize("seed", range(5))
def test_few_blocks_are_in_use_at_any_moment_of_a_large_cache(seed):
    blocks = np.repeat(np.arange(300), np.random.default_rng(seed).integers(20, 200, 300))
    order = shuffle(blocks, seed=seed, epoch=3)
    assert sorted(order.tolist()) == list(range(len(blocks)))
    assert 3 < blocks_in_use(order, blocks).max() <= WINDOW_BLOCKS
    grouped = plan_epoch(
        np.ones(len(blocks)), blocks, batch_size=4, accumulate=4, seed=seed, epoch=3
    )
    assert blocks_in_use(grouped.order, blocks).max() <= WINDOW_BLOCKS + 3


def test_a_large_cache_is_not_read_in_its_own_order():
    blocks = np.repeat(np.arange(100), 50)
    order = shuffle(blocks, seed=0, epoch=0)
    ranks = np.arange(len(order))
    assert abs(np.corrcoef(order, ranks)[0, 1]) < 0.2
    neighbours = np.mean(blocks[order][1:] == blocks[order][:-1])
    assert neighbours < 0.3


def test_a_few_blocks_are_shuffled_completely():
    """Each document is as likely to come in any tenth of the epoch: a chi-squared test."""
    blocks = np.repeat(np.arange(4), 25)
    counts = np.zeros((4, 10))
    for epoch in range(400):
        order = shuffle(blocks, seed=0, epoch=epoch)
        places = np.empty(100, dtype=int)
        places[order] = np.arange(100)
        for block in range(4):
            counts[block] += np.bincount(places[blocks == block] // 10, minlength=10)
    expected = 400 * 25 / 10
    assert ((counts - expected) ** 2 / expected).sum() < 55  # 27 degrees of freedom: p < 0.001
