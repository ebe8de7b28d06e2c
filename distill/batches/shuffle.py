"""The order of documents in an epoch: random, but so that few blocks of a cache take turns.

A document read alone costs the unpacking of all that is stored around it. So blocks, stretches of
documents that stand together on disk, come in random order, and each document comes at a random
moment around its block's.
"""

import numpy as np

WINDOW_BLOCKS = 8
"""Blocks that take turns at any moment; a reader keeps some more than these unpacked."""


def shuffle(blocks: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """(num_documents,) int64: every document once, in an order that (seed, epoch) decides.

    A block in place p of n is spread evenly over the moments from p - 4 to p + 4, cut to those
    from 0 to n: at any moment at most 8 blocks are in use, and up to 4 blocks are shuffled
    completely. Nothing is read, and no more is needed than 40 bytes a document.

    Args:
        blocks: (num_documents,) integers from 0 up, the block of each document.
    """
    generator = np.random.default_rng([seed, epoch])
    num_blocks = int(blocks.max()) + 1
    places = generator.permutation(num_blocks)[blocks]
    first = np.maximum(places - WINDOW_BLOCKS / 2, 0)
    last = np.minimum(places + WINDOW_BLOCKS / 2, num_blocks)
    return np.argsort(first + (last - first) * generator.random(len(blocks)), kind="stable")
