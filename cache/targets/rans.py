"""Entropy coding of small signed integers with range asymmetric numeral systems (rANS).

A matrix of codes is coded row by row, each column with a frequency table of its own. Every row
is a lane with its own 32-bit state and all lanes step through the columns together, so a step
is a dozen NumPy operations on arrays of N lanes. The 16-bit words by which states are kept in
[2**16, 2**32) share one stream: those a step needs lie together, in lane order.

Letters: `N` rows (lanes), `R` columns, `A` widest alphabet, `M` words.

Source: Duda 2013, "Asymmetric numeral systems" (arXiv:1311.2540), the range variant; Giesen
2014, "Interleaved entropy coders" (arXiv:1402.3392), for lanes that share a stream.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache.errors import CacheError

PRECISION_BITS = 12
"""Frequencies of a column sum to 2**12."""
MAX_LIMIT = 127
"""Codes are decoded to int8."""

_TOTAL = 1 << PRECISION_BITS
_LOWEST_STATE = 1 << 16
_BLOCK_COLUMNS = 16
"""Columns kept at a time in a wider type than a byte."""

# Operands of a decoding step: NumPy takes half the time to start on 0-d arrays as on ints.
_PRECISION = np.array(PRECISION_BITS, dtype=np.uint32)
_SLOT_MASK = np.array(_TOTAL - 1, dtype=np.uint32)
_BIAS_SHIFT = np.array(20, dtype=np.uint32)
_WORD_BITS = np.array(16, dtype=np.uint32)
_LOWEST = np.array(_LOWEST_STATE, dtype=np.uint32)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrequencyTables:
    """Alphabet of each column and how often its symbols are expected; refuses unusable ones."""

    limits: np.ndarray
    """(R,) integers from 0 to 127: column c holds -limits[c] to +limits[c]."""
    frequencies: np.ndarray
    """(R, A) integers, A = 2 * max(limits) + 1: in row c the first 2 * limits[c] + 1 are 1 or
    more and sum to 4096, the rest are 0."""

    def __post_init__(self):
        _require_limits(self.limits)
        inside = _inside_alphabet(self.limits)
        frequencies = self.frequencies
        if frequencies.shape != inside.shape or not _holds_integers(frequencies):
            raise CacheError(
                f"frequencies have {_kind(frequencies)}; their limits need integers of shape "
                f"{inside.shape}. Fit the tables again."
            )
        usable = (frequencies <= _TOTAL) & np.where(inside, frequencies >= 1, frequencies == 0)
        faulty = ~usable.all(axis=1) | (frequencies.sum(axis=1, dtype=np.int64) != _TOTAL)
        if faulty.any():
            raise CacheError(
                f"the frequencies of column {int(faulty.argmax())} cannot be coded with: each of "
                f"its symbols needs 1 or more, summing to {_TOTAL}, and 0 elsewhere. "
                "The table is damaged; fit it again."
            )

    @cached_property
    def coded_columns(self) -> np.ndarray:
        """Columns of more than one symbol; the others leave every state as it is."""
        return np.flatnonzero(self.limits)

    @cached_property
    def starts(self) -> np.ndarray:
        """(R, A) uint32, first slot of each symbol: the frequencies before it, summed."""
        ends = np.cumsum(self.frequencies, axis=1, dtype=np.uint32)
        return ends - self.frequencies.astype(np.uint32)

    @cached_property
    def slot_entries(self) -> np.ndarray:
        """(coded columns, 4096) uint32, all that decoding a slot needs, in one lookup.

        From the top: 12 bits of bias (the slot's distance from its symbol's start), 8 bits of
        the code as an int8, 12 bits of frequency (below 4096 where there are two symbols).
        """
        columns = self.coded_columns
        frequencies = self.frequencies[columns].astype(np.uint32)
        codes = np.arange(frequencies.shape[1]) - self.limits[columns, None].astype(np.int64)
        entries = (codes & 0xFF).astype(np.uint32) << 12
        entries += frequencies - (self.starts[columns] << 20)
        slots = np.repeat(entries.ravel(), frequencies.ravel()).reshape(len(columns), _TOTAL)
        slots += np.arange(_TOTAL, dtype=np.uint32) << 20
        return slots


def fit_tables(codes: np.ndarray, limits: np.ndarray | None = None) -> FrequencyTables:
    """Tables under which `codes`, and rows like them, take about their entropy.

    Counts are smoothed by half a count a symbol, shared out as a two-sided geometric
    distribution of the column's mean magnitude: few rows are then enough for a wide column.

    Args:
        codes: (N, R) integers, R of 1 or more; N may be 0.
        limits: (R,) integers from 0 to 127, beyond which codes count as clipped. By default a
            quarter and one more than the largest magnitude of the column, at most 127.

    Raises:
        CacheError: the arrays are not of that kind.
    """
    if limits is None:
        _require_codes(codes)
        extremes = np.array([codes.min(axis=0, initial=0), codes.max(axis=0, initial=0)], float)
        reach = np.abs(extremes).max(axis=0)
        limits = np.minimum(reach + np.ceil(reach / 4) + 1, MAX_LIMIT).astype(np.uint8)
    _require_limits(limits)
    _require_codes(codes, num_columns=len(limits))
    limits = limits.astype(np.int16)
    inside = _inside_alphabet(limits)
    counts = np.empty(inside.shape)
    for column, limit in enumerate(limits):
        symbols = _symbols(codes[:, column], limit)
        counts[column] = np.bincount(symbols, minlength=inside.shape[1])
    magnitudes = np.abs(np.arange(inside.shape[1]) - limits[:, None])
    sums = (counts * magnitudes).sum(axis=1, keepdims=True)
    means = np.maximum(sums / max(len(codes), 1), 0.1)
    ratios = (np.sqrt(1 + means**2) - 1) / means  # ratio**|code| has that mean magnitude
    prior = inside * ratios**magnitudes
    prior *= inside.sum(axis=1, keepdims=True) / (2 * prior.sum(axis=1, keepdims=True))
    return FrequencyTables(
        limits=limits.astype(np.uint8), frequencies=_round_to_total(counts + prior, inside)
    )


def encode(codes: np.ndarray, tables: FrequencyTables) -> tuple[np.ndarray, np.ndarray]:
    """States (N,) uint32 and words (M,) uint16 from which `decode` returns `codes`.

    Columns are coded from the last to the first, so that decoding meets them in order.

    Args:
        codes: (N, R) integers; those beyond a column's limits are clipped to them.
        tables: of R columns.

    Raises:
        CacheError: `codes` are not of that kind.
    """
    _require_codes(codes, num_columns=len(tables.limits))
    frequencies = tables.frequencies.astype(np.uint32)
    states = np.full(len(codes), _LOWEST_STATE, dtype=np.uint32)
    emitted: list[np.ndarray] = []
    coded = tables.coded_columns
    for stop in range(len(coded), 0, -_BLOCK_COLUMNS):
        columns = coded[max(stop - _BLOCK_COLUMNS, 0) : stop]
        block = np.ascontiguousarray(_symbols(codes[:, columns], tables.limits[columns]).T)
        for column, symbols in zip(columns[::-1], block[::-1], strict=True):
            frequency = frequencies[column].take(symbols)
            # Where the next state would leave 32 bits, the low word goes out first.
            full = ((states >> (32 - PRECISION_BITS)) >= frequency).nonzero()[0]
            if len(full):
                full_states = states.take(full)
                emitted.append((full_states & 0xFFFF).astype(np.uint16))
                states[full] = full_states >> 16
            # x -> x // f * 4096 + x % f + start
            states += states // frequency * (_TOTAL - frequency)
            states += tables.starts[column].take(symbols)
    words = np.concatenate(emitted[::-1]) if emitted else np.zeros(0, dtype=np.uint16)
    return states, words


def decode(states: np.ndarray, words: np.ndarray, tables: FrequencyTables) -> np.ndarray:
    """The codes that `encode` was given, (N, R) int8, column-major (`.T` is contiguous).

    Noticed are a stream too short or too long, and a lane that does not end in the state it
    was encoded from, as nearly every flipped bit has it: it throws its lane and the words of
    all later ones off. A wrong row may still end right (chance about 1e-6), so a checksum
    stays necessary. Whatever the input, the work is R steps and the memory about
    N * (R + 120) + 4 * M bytes, and 16 KiB for each column, kept with the tables.

    Args:
        states: (N,) uint32.
        words: (M,) uint16.
        tables: of R columns.

    Raises:
        CacheError: arrays of another kind, or a stream that is damaged.
    """
    _require_stream(states, words)
    words = words.astype(np.uint32)
    states = states.copy()
    decoded = np.zeros((len(tables.limits), len(states)), dtype=np.uint8)
    entries = np.empty((_BLOCK_COLUMNS, len(states)), dtype=np.uint32)
    slots = np.empty(len(states), dtype=np.intp)
    part = np.empty_like(states)
    below = np.empty(len(states), dtype=bool)
    position = 0
    for first in range(0, len(tables.coded_columns), _BLOCK_COLUMNS):
        columns = tables.coded_columns[first : first + _BLOCK_COLUMNS]
        lookups = tables.slot_entries[first : first + _BLOCK_COLUMNS]
        block = entries[: len(columns)]
        for lookup, entry in zip(lookups, block, strict=True):
            np.bitwise_and(states, _SLOT_MASK, part)
            slots[:] = part
            lookup.take(slots, None, entry, "clip")  # in range; "clip" writes to entry directly
            # x -> frequency * (x // 4096) + bias
            np.right_shift(states, _PRECISION, states)
            np.bitwise_and(entry, _SLOT_MASK, part)
            np.multiply(states, part, states)
            np.right_shift(entry, _BIAS_SHIFT, part)
            np.add(states, part, states)
            np.less(states, _LOWEST, below)
            lanes = below.nonzero()[0]
            if len(lanes):
                taken = words[position : position + len(lanes)]
                position += len(lanes)
                if position > len(words):
                    raise _damaged(f"its {len(words)} words are too few")
                refilled = states.take(lanes)
                np.left_shift(refilled, _WORD_BITS, refilled)
                states[lanes] = np.bitwise_or(refilled, taken, refilled)
        decoded[columns] = (block >> _PRECISION).astype(np.uint8)
    _require_end(states, num_left_over=len(words) - position)
    return decoded.view(np.int8).T


def _symbols(codes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Clipped codes as indices into their column's table, intp."""
    limits = limits.astype(np.intp)
    return np.clip(codes, -limits, limits).astype(np.intp) + limits


def _round_to_total(weights: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(R, A) uint16 frequencies, about in proportion to the weights, by largest remainders.

    Each symbol has 1 for certain; only what its share is worth beyond that is shared out.
    """
    shares = weights * (_TOTAL / weights.sum(axis=1, keepdims=True))
    extra = np.maximum(shares - 1, 0) * inside
    num_free = _TOTAL - inside.sum(axis=1, keepdims=True)
    extra *= num_free / extra.sum(axis=1, keepdims=True)
    whole = np.floor(extra)
    num_missing = num_free - whole.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(inside, whole - extra, 1), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    return (whole + inside + (ranks < num_missing)).astype(np.uint16)


def _inside_alphabet(limits: np.ndarray) -> np.ndarray:
    """(R, A) bool, which entries of a table belong to a symbol."""
    sizes = 2 * limits.astype(np.int64) + 1
    return np.arange(sizes.max()) < sizes[:, None]


def _holds_integers(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.integer)


def _kind(array: np.ndarray) -> str:
    return f"shape {array.shape} and dtype {array.dtype}"


def _require_limits(limits: np.ndarray) -> None:
    if limits.ndim != 1 or len(limits) == 0 or not _holds_integers(limits):
        raise CacheError(f"limits have {_kind(limits)}; give one integer for each column.")
    if limits.min() < 0 or limits.max() > MAX_LIMIT:
        raise CacheError(
            f"limits go from {limits.min()} to {limits.max()}; codes fit into a byte with limits "
            f"from 0 to {MAX_LIMIT}. Quantise more coarsely."
        )


def _require_codes(codes: np.ndarray, num_columns: int | None = None) -> None:
    if codes.ndim != 2 or not _holds_integers(codes) or num_columns not in (None, codes.shape[1]):
        raise CacheError(
            f"codes have {_kind(codes)}; give integers of shape (rows, {num_columns or 'columns'})."
        )


def _require_stream(states: np.ndarray, words: np.ndarray) -> None:
    for name, array, dtype in (("states", states, np.uint32), ("words", words, np.uint16)):
        if array.ndim != 1 or array.dtype != dtype:
            raise CacheError(
                f"{name} have {_kind(array)}; give one dimension of {np.dtype(dtype)}, "
                "as encode returns them."
            )
    if len(states) and states.min() < _LOWEST_STATE:
        raise _damaged(f"row {int(states.argmin())} starts from a state below {_LOWEST_STATE}")


def _require_end(states: np.ndarray, num_left_over: int) -> None:
    if num_left_over:
        raise _damaged(f"{num_left_over} of its words are left over")
    wrong = np.flatnonzero(states != _LOWEST_STATE)
    if len(wrong):
        raise _damaged(f"{len(wrong)} rows, the first of them {wrong[0]}, end in a wrong state")


def _damaged(found: str) -> CacheError:
    return CacheError(
        f"the coded stream is damaged: {found}. An intact one uses every word and ends each row "
        f"in state {_LOWEST_STATE}. Remove the shard it is from and build that again."
    )
