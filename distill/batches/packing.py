"""Short documents end to end in full sequences (bins), instead of side by side with padding."""

from collections.abc import Sequence

import numpy as np

Bins = list[list[int]]


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> Bins:
    """Documents of each bin, by their places in `lengths`: few bins, of about equal length.

    A batch is as wide as its longest bin, so bins of equal length are padded little, however
    full they are: 16 documents of MBPP take 6 % padding so, and 10 % in bins that are filled
    one after the other.

    Args:
        lengths: tokens of each document, none above `capacity`.
        capacity: most tokens of a bin.
    """
    fewest = first_fit(lengths, capacity)
    for num_bins in range(len(fewest), len(lengths)):
        bins = balance(lengths, num_bins)
        if max(sum(int(lengths[document]) for document in places) for places in bins) <= capacity:
            return bins
    return [[document] for document in range(len(lengths))]


def first_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> Bins:
    """Bins filled up: the longest document first, each into the first bin with room for it.

    At most 11/9 of the fewest possible bins, and one (Johnson 1973, "Near-optimal bin packing
    algorithms").
    """
    bins: Bins = []
    room: list[int] = []
    for document in _longest_first(lengths):
        length = int(lengths[document])
        fits = next((place for place, left in enumerate(room) if left >= length), len(bins))
        if fits == len(bins):
            bins.append([])
            room.append(capacity)
        bins[fits].append(document)
        room[fits] -= length
    return bins


def balance(lengths: Sequence[int] | np.ndarray, num_bins: int) -> Bins:
    """So many bins of about equal length: the longest document first, into the shortest bin.

    The longest bin is at most 4/3 of what it could be (Graham 1969, "Bounds on multiprocessing
    timing anomalies").
    """
    bins: Bins = [[] for _ in range(num_bins)]
    sums = [0] * num_bins
    for document in _longest_first(lengths):
        shortest = sums.index(min(sums))
        bins[shortest].append(document)
        sums[shortest] += int(lengths[document])
    return bins


def _longest_first(lengths: Sequence[int] | np.ndarray) -> list[int]:
    return np.argsort(-np.asarray(lengths), kind="stable").tolist()
