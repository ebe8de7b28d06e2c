"""Encoded rows to the datasets of a shard and back: ragged entries, differences, entropy codes.

N rows, K entries, R tail rank. Rows are packed in groups of GROUP_ROWS, so that a reader can take
some without unpacking all.
"""

import numpy as np
import torch

from cache.errors import CacheError
from cache.targets.logprob_codes import EMPTY
from cache.targets.rans import FrequencyTables, decode, encode
from cache.targets.row_codec import EncodedRows

GROUP_ROWS = 4096
"""Rows whose entropy codes share one stream: they are decoded together."""


def pack_codes(codes: np.ndarray, tables: FrequencyTables) -> dict[str, np.ndarray]:
    """Entropy-coded (N, R) coefficients: a state a row, words, and where each group's begin."""
    states, words, offsets = [], [], [0]
    for start in range(0, len(codes), GROUP_ROWS):
        group_states, group_words = encode(codes[start : start + GROUP_ROWS], tables)
        states.append(group_states)
        words.append(group_words)
        offsets.append(offsets[-1] + len(group_words))
    return {
        "tail_states": np.concatenate(states).astype("<u4"),
        "tail_words": np.concatenate(words).astype("<u2"),
        "tail_word_offsets": np.array(offsets, dtype="<i8"),
    }


def unpack_group(
    states: np.ndarray, words: np.ndarray, tables: FrequencyTables, where: str
) -> np.ndarray:
    """(n, R) int8 codes of one group.

    Raises:
        CacheError: the words are not what was written.
    """
    try:
        return decode(states, words, tables)
    except CacheError as error:
        raise CacheError(f"{where}: {error}") from error


def pack_differences(values: np.ndarray) -> np.ndarray:
    """Differences along the last axis, modulo the dtype: small numbers, which filters pack well."""
    packed = values.copy()
    packed[:, 1:] -= values[:, :-1]
    return packed


def unpack_differences(packed: np.ndarray) -> np.ndarray:
    """What `pack_differences` was given."""
    return np.cumsum(packed, axis=-1, dtype=packed.dtype)


def pack_rows(
    rows: dict[str, np.ndarray], *, ragged: bool, tables: FrequencyTables | None
) -> dict[str, np.ndarray]:
    """Fields of encoded rows, as `ShardLayout.row_fields` names them, to a shard's datasets."""
    packed = dict(rows)
    if ragged:
        ids = packed["topk_ids"]
        # Entries that a row does not use repeat its first id.
        used = np.ones(ids.shape, dtype=bool)
        used[:, 1:] = ids[:, 1:] != ids[:, :1]
        packed["topk_counts"] = used.sum(-1).astype("<u2")
    for name in ("topk_logprobs", "tail_log_mass"):
        if name in packed and packed[name].dtype.kind == "u":
            packed[name] = pack_differences(packed[name])
    if ragged:
        for name in ("topk_ids", "topk_logprobs"):
            packed[name] = packed[name][used]
    if "tail_codes" in packed:
        assert tables is not None
        packed |= pack_codes(packed.pop("tail_codes"), tables)
    return packed


def unpack_rows(
    packed: dict[str, np.ndarray], *, counts: np.ndarray | None, num_entries: int
) -> dict[str, np.ndarray]:
    """Inverse of `pack_rows` for some consecutive rows, but for the entropy-coded tail.

    Args:
        packed: those rows' part of each dataset.
        counts: (n,) entries of each row, where rows are ragged.
        num_entries: K.

    Raises:
        CacheError: the counts do not fit the entries.
    """
    rows = dict(packed)
    if counts is not None:
        used = np.arange(num_entries) < counts[:, None].astype(np.int64)
        fits = ((counts >= 1) & (counts <= num_entries)).all()
        if not fits or used.sum() != len(rows["topk_ids"]):
            raise CacheError("topk_counts do not fit topk_ids")
        for name in ("topk_ids", "topk_logprobs"):
            dense = np.zeros(used.shape, rows[name].dtype)
            dense[used] = rows[name]
            rows[name] = dense
        rows["topk_ids"] = np.where(used, rows["topk_ids"], rows["topk_ids"][:, :1])
    for name in ("topk_logprobs", "tail_log_mass"):
        if name in rows and rows[name].dtype.kind == "u":
            rows[name] = unpack_differences(rows[name])
    if counts is not None:
        empty = EMPTY if rows["topk_logprobs"].dtype.kind == "u" else -np.inf
        rows["topk_logprobs"] = np.where(used, rows["topk_logprobs"], empty).astype(
            rows["topk_logprobs"].dtype
        )
    return rows


def to_tensors(arrays: dict[str, np.ndarray]) -> EncodedRows:
    """Arrays of a shard as tensors, unsigned integers widened to int64."""
    return {
        name: torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array)
        for name, array in arrays.items()
    }
