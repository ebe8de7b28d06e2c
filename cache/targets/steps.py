"""The quantiser of a lowrank tail: how fine its steps are, how it rounds, what its codes take.

N rows, R rank.
"""

import numpy as np

from cache.targets.rans import PRECISION_BITS, FrequencyTables, fit_tables

_LARGEST_CODE = 127
_RANGE_MARGIN = 1.3
"""Room for values that the rows of the fit did not have."""
_BIT_PRICE = 0.1
"""What a bit is worth, in squared steps of error: coefficients are rounded to a code nearer to 0
where that saves more than it costs. From 0.08 to 0.16 all do the same; see docs/tails.md."""


def choose_steps(
    coefficients: np.ndarray, bytes_per_row: float | None, largest_error: float
) -> tuple[np.ndarray, FrequencyTables]:
    """Steps at which the codes of (N, R) coefficients take that much, and their tables.

    Without bytes: steps at which a row's squared error is `largest_error` in the mean.

    One step for all columns, but for the few whose largest value would leave the range of the
    codes: theirs is as fine as the range allows.
    """
    finest = np.abs(coefficients).max(0) * (_RANGE_MARGIN / _LARGEST_CODE)  # (R,)
    finest = np.maximum(finest, 1e-12).astype(np.float32)
    low, high = 1e-4 * float(finest.max()), 1e3 * float(finest.max())
    for _ in range(16):
        middle = (low * high) ** 0.5
        steps = np.maximum(finest, middle)
        codes, tables = _coded(coefficients, steps)
        if bytes_per_row is not None:
            too_fine = code_bytes(codes, tables) > bytes_per_row
        else:
            too_fine = np.square(codes * steps - coefficients).sum(1).mean() < largest_error
        if too_fine:
            low = middle
        else:
            high = middle
    steps = np.maximum(finest, high)
    return steps, _coded(coefficients, steps)[1]


def code_bytes(codes: np.ndarray, tables: FrequencyTables) -> float:
    """Bytes a row of (N, R) codes under static frequencies."""
    bits = 0.0
    for column, limit, frequencies in zip(codes.T, tables.limits, tables.frequencies, strict=True):
        counts = np.bincount(column.astype(np.int64) + int(limit), minlength=2 * int(limit) + 1)
        costs = PRECISION_BITS - np.log2(frequencies[: len(counts)].astype(np.float64))
        bits += float((counts * costs).sum())
    return bits / 8 / max(len(codes), 1)


def roundings_of(tables: FrequencyTables) -> np.ndarray:
    """(R,) what is added to a coefficient's magnitude, in steps, before it is cut to an integer.

    A half rounds to the nearest. A code that costs b bits more than its neighbour nearer to 0 is
    worth it only from b · price / 2 beyond the middle between them. One b serves a column: that
    from 0 to 1, where nearly all such choices are.
    """
    columns, limits = np.arange(len(tables.limits)), tables.limits.astype(np.int64)
    frequencies = tables.frequencies.astype(np.float64)
    beside = np.minimum(limits + 1, frequencies.shape[1] - 1)
    ones = np.where(limits > 0, frequencies[columns, beside], frequencies[columns, limits])
    extra_bits = np.log2(frequencies[columns, limits] / np.maximum(ones, 1))
    return np.clip(0.5 - _BIT_PRICE / 2 * extra_bits, 0.0, 0.5)


def _coded(coefficients: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, FrequencyTables]:
    """Codes and tables that fit each other: a code's cost decides what is rounded to it."""
    scaled = coefficients / steps
    magnitudes, roundings = np.abs(scaled), np.full(len(steps), 0.5)
    for _ in range(3):
        codes = np.minimum(np.floor(magnitudes + roundings), _LARGEST_CODE)
        codes = np.copysign(codes, scaled).astype(np.int8)
        tables = fit_tables(codes)
        roundings = roundings_of(tables)
    return codes, tables
