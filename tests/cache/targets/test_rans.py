"""Entropy coding of integer matrices: round trips, size against the entropy, damage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError
from cache.targets.rans import FrequencyTables, decode, encode, fit_tables


def gaussian_codes(num_rows: int, stds: np.ndarray, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(num_rows, len(stds))) * stds
    return np.clip(np.rint(values), -127, 127).astype(np.int8)  # (N, R)


def scalar_decode(states, words, limits, frequencies) -> list[list[int]]:
    """One symbol at a time in Python's integers, from Duda's formulas (M = 4096, b = 2**16)."""
    states, words = [int(x) for x in states], [int(w) for w in words]
    rows: list[list[int]] = [[] for _ in states]
    for limit, table in zip(limits.tolist(), frequencies.tolist(), strict=True):
        for lane, x in enumerate(states):
            symbol, start = 0, 0
            while start + table[symbol] <= x % 4096:
                start += table[symbol]
                symbol += 1
            x = table[symbol] * (x // 4096) + x % 4096 - start
            if x < 2**16:
                x = x * 2**16 + words.pop(0)
            states[lane] = x
            rows[lane].append(symbol - limit)
    assert not words and all(x == 2**16 for x in states)
    return rows


@st.composite
def matrices(draw):
    """Codes beside the kind of their columns: noise of some width, constants, both extremes."""
    num_rows, num_columns = draw(st.integers(0, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = np.empty((num_rows, num_columns), dtype=np.int64)
    for column in range(num_columns):
        kind = draw(st.sampled_from(["noise", "constant", "extremes", "far"]))
        if kind == "noise":
            codes[:, column] = np.rint(rng.normal(size=num_rows) * draw(st.floats(0.1, 40)))
        elif kind == "constant":
            codes[:, column] = draw(st.integers(-127, 127))
        elif kind == "extremes":
            codes[:, column] = rng.choice([-127, 127], num_rows)
        else:
            codes[:, column] = rng.integers(-(2**40), 2**40, num_rows)
    return codes


@given(matrices())
@settings(max_examples=80, deadline=None)
def test_codes_come_back_clipped_to_a_byte(codes):
    tables = fit_tables(codes)
    states, words = encode(codes, tables)
    decoded = decode(states, words, tables)
    assert states.dtype == np.uint32 and words.dtype == np.uint16 and decoded.dtype == np.int8
    assert np.array_equal(decoded, np.clip(codes, -127, 127))


@given(matrices(), st.data())
@settings(max_examples=40, deadline=None)
def test_codes_come_back_clipped_to_given_limits_under_tables_of_other_rows(codes, data):
    num_columns = codes.shape[1]
    limits = data.draw(st.lists(st.integers(0, 127), min_size=num_columns, max_size=num_columns))
    limits = np.array(limits, dtype=np.uint8)
    tables = fit_tables(codes[: len(codes) // 2], limits)
    assert np.array_equal(tables.limits, limits)
    wide = limits.astype(np.int64)
    assert np.array_equal(decode(*encode(codes, tables), tables), np.clip(codes, -wide, wide))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_every_integer_type_is_coded_up_to_its_own_ends(dtype):
    info = np.iinfo(dtype)
    codes = np.array([[info.min, info.max, 0], [1, 2, 3], [info.max, info.min, 5]], dtype=dtype)
    tables = fit_tables(codes)
    expected = [[min(max(int(v), -127), 127) for v in row] for row in codes]
    assert decode(*encode(codes, tables), tables).tolist() == expected


def test_a_scalar_decoder_reads_the_same_stream():
    codes = gaussian_codes(9, np.geomspace(40, 0.2, 50))
    tables = fit_tables(codes)
    states, words = encode(codes, tables)
    assert scalar_decode(states, words, tables.limits, tables.frequencies) == codes.tolist()


def test_the_stream_is_the_one_of_earlier_versions():
    limits = np.array([1, 0, 3, 1], dtype=np.uint8)
    narrow, constant = [1, 4094, 1, 0, 0, 0, 0], [4096, 0, 0, 0, 0, 0, 0]
    wide = [96, 500, 500, 1000, 1000, 500, 500]
    frequencies = np.array([narrow, constant, wide, narrow], dtype=np.uint16)
    codes = [[0, 0, -3, 0], [1, 0, 3, -1], [-1, 0, 0, 1], [0, 0, 1, 1], [1, 0, -2, 1]]
    states, words = encode(np.array(codes), FrequencyTables(limits=limits, frequencies=frequencies))
    assert states.tolist() == [2798936, 137441279, 68718592, 1100065932, 137441279]
    assert words.tolist() == [28628, 30319, 61587]
    assert scalar_decode(states, words, limits, frequencies) == codes


def test_size_is_within_one_percent_of_the_entropy():
    codes = gaussian_codes(8192, np.geomspace(27, 0.4, 576))
    bits = 0.0
    for column in codes.T:
        counts = np.unique(column, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / len(codes))).sum())
    tables = fit_tables(codes)
    states, words = encode(codes, tables)
    assert words.nbytes < 1.01 * bits / 8
    # A state is worth about 16 of its 32 bits, so that the words alone can lie below.
    assert words.nbytes + states.nbytes > bits / 8
    assert np.array_equal(decode(states, words, tables), codes)


def test_tables_of_few_rows_serve_others_within_five_percent():
    stds = np.geomspace(27, 0.4, 64)
    codes = gaussian_codes(4096, stds, seed=1)
    own = encode(codes, fit_tables(codes))[1].nbytes
    assert encode(codes, fit_tables(gaussian_codes(128, stds, seed=2)))[1].nbytes < 1.05 * own


def test_default_limits_leave_a_quarter_and_one_of_room():
    codes = np.array([[0, 4, -10, 101, 500], [0, -3, 9, 2, 0]])
    assert fit_tables(codes).limits.tolist() == [1, 6, 14, 127, 127]


def test_fitted_tables_are_a_distribution_over_each_alphabet_and_repeat_exactly():
    codes = gaussian_codes(300, np.geomspace(40, 0.1, 30))
    tables = fit_tables(codes)
    for limit, row in zip(tables.limits.tolist(), tables.frequencies.tolist(), strict=True):
        assert sum(row) == 4096
        assert min(row[: 2 * limit + 1]) >= 1 and not any(row[2 * limit + 1 :])
    assert np.array_equal(fit_tables(codes.copy()).frequencies, tables.frequencies)
    common = tables.frequencies[0, tables.limits[0]] / 4096
    assert common == pytest.approx(1 / (40 * math.sqrt(2 * math.pi)), rel=0.8)


STREAM_CODES = gaussian_codes(24, np.geomspace(20, 0.3, 48))
STREAM_TABLES = fit_tables(STREAM_CODES)
STATES, WORDS = encode(STREAM_CODES, STREAM_TABLES)


@pytest.mark.parametrize("num_words", [0, 1, len(WORDS) // 2, len(WORDS) - 1])
def test_a_truncated_stream_is_refused(num_words):
    with pytest.raises(CacheError, match="damaged: "):
        decode(STATES, WORDS[:num_words], STREAM_TABLES)


def test_each_sign_of_damage_is_named():
    with pytest.raises(CacheError, match=rf"its {len(WORDS) - 1} words are too few"):
        decode(STATES, WORDS[:-1], STREAM_TABLES)
    with pytest.raises(CacheError, match="1 of its words are left over"):
        decode(STATES, np.append(WORDS, WORDS[:1]), STREAM_TABLES)
    with pytest.raises(CacheError, match="1 rows, the first of them 1, end in a wrong state"):
        tables = fit_tables(np.zeros((1, 2), dtype=int), np.zeros(2, dtype=int))
        decode(np.array([2**16, 2**16 + 5], dtype=np.uint32), WORDS[:0], tables)
    with pytest.raises(CacheError, match="row 3 starts from a state below 65536"):
        decode(np.where(np.arange(24) == 3, 9, STATES).astype(np.uint32), WORDS, STREAM_TABLES)


def test_every_flipped_bit_of_the_words_is_noticed():
    for bit in range(16 * len(WORDS)):
        flipped = WORDS.copy()
        flipped[bit // 16] ^= 1 << bit % 16
        with pytest.raises(CacheError, match="damaged"):
            decode(STATES, flipped, STREAM_TABLES)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_noise_is_refused_without_a_crash(seed, num_rows, num_words):
    rng = np.random.default_rng(seed)
    states = rng.integers(0, 2**32, num_rows, dtype=np.uint32)
    words = rng.integers(0, 2**16, num_words, dtype=np.uint16)
    if num_rows or num_words:
        with pytest.raises(CacheError, match="damaged"):
            decode(states, words, STREAM_TABLES)


@pytest.mark.parametrize(
    "row",
    [
        [1, 4094, 2],  # too much
        [1, 4094, 0],  # a symbol without a slot
        [0, 4096, 0],
        [1, -2, 4097],
        [2**32, 4096 - 2**32, 0],
        [0, 0, 0],
    ],
)
def test_a_forged_table_is_refused(row):
    good = [1, 4094, 1]
    with pytest.raises(CacheError, match="the frequencies of column 1 cannot be coded with"):
        FrequencyTables(limits=np.array([1, 1]), frequencies=np.array([good, row], dtype=np.int64))


def test_frequencies_outside_the_alphabet_or_wrapping_around_are_refused():
    with pytest.raises(CacheError, match="column 0 cannot be coded with"):
        FrequencyTables(limits=np.array([0, 1]), frequencies=np.array([[4095, 1, 0], [1, 4094, 1]]))
    wrapping = np.array([[2**64 - 1, 4096, 1]], dtype=np.uint64)  # sums to 4096 modulo 2**64
    with pytest.raises(CacheError, match="column 0 cannot be coded with"):
        FrequencyTables(limits=np.array([1]), frequencies=wrapping)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(CacheError, match=r"frequencies have shape \(1, 5\) .* shape \(1, 3\)"):
        FrequencyTables(limits=np.array([1]), frequencies=np.ones((1, 5), dtype=int))
    with pytest.raises(CacheError, match="frequencies have .* float64"):
        FrequencyTables(limits=np.array([1]), frequencies=np.array([[1.0, 4094, 1]]))
    for limits in (np.array([1.0]), np.array(1), np.zeros(0, dtype=int)):
        with pytest.raises(CacheError, match="limits have .* one integer for each column"):
            FrequencyTables(limits=limits, frequencies=np.array([[1, 4094, 1]]))
    for limit in (-1, 128):
        with pytest.raises(CacheError, match=f"limits go from {limit} to {limit}"):
            fit_tables(STREAM_CODES[:, :1], np.array([limit]))
    with pytest.raises(CacheError, match=r"codes have .* float64; .* shape \(rows, columns\)"):
        fit_tables(STREAM_CODES.astype(float))
    with pytest.raises(CacheError, match=r"codes have shape \(24, 47\) .* shape \(rows, 48\)"):
        encode(STREAM_CODES[:, 1:], STREAM_TABLES)
    with pytest.raises(CacheError, match="states have .* int64; give one dimension of uint32"):
        decode(STATES.astype(np.int64), WORDS, STREAM_TABLES)
    with pytest.raises(CacheError, match="words have .* give one dimension of uint16"):
        decode(STATES, WORDS[None], STREAM_TABLES)
