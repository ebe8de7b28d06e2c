"""Which datasets a shard has, and their dtypes and shapes: all that follows from the identity."""

from dataclasses import dataclass

import numpy as np

from cache.storage.identity import Identity
from cache.storage.packing import GROUP_ROWS
from cache.targets.fidelity import NUM_MEASURES, SAMPLE_EVERY
from cache.targets.format import TargetFormat
from cache.targets.tail_mass import NODES

Field = tuple[np.dtype, tuple[int, ...]]
HALF = np.dtype("<f2")

_AUTO_BYTES = 0.32
"""For the estimate alone: bytes of a row's codes, a coefficient, where the teacher decides.
SmolLM2-135M and Qwen2.5-Coder-0.5B take 0.33 and 0.31 (docs/tails.md)."""

ANY = -1
"""Stands for a length that only the shard knows; it is bounded by `ShardLayout.largest`."""


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """Dtypes and widths of a cache's shards."""

    vocab_size: int
    targets: TargetFormat
    marked: bool = True
    """Whether tokens are marked; before version 4 they are not."""
    tail_width: int = 0
    """Coefficients a row of a lowrank tail, or the width of the hidden state of a hidden one."""

    @classmethod
    def of(cls, identity: Identity) -> "ShardLayout":
        """How the shards of a cache are laid out."""
        return cls(
            vocab_size=identity.vocab_size,
            targets=identity.targets,
            marked=identity.format_version >= 4,
            tail_width=identity.tail_width,
        )

    @property
    def id_dtype(self) -> np.dtype:
        """Two bytes a token id where the vocabulary allows it."""
        return np.dtype("<u2" if self.vocab_size <= 65536 else "<u4")

    @property
    def num_entries(self) -> int:
        """K: most entries of a row."""
        return min(self.targets.top_k, self.vocab_size)

    @property
    def ragged(self) -> bool:
        """Whether rows use as many entries as their own distribution needs."""
        return self.targets.top_p is not None

    def row_fields(self) -> dict[str, Field]:
        """Dtype and shape after the row axis of every field of encoded rows, before packing."""
        logprob = np.dtype("u1") if self.targets.logprob_bits == 8 else HALF
        entries = (self.num_entries,)
        fields: dict[str, Field] = {
            "topk_ids": (self.id_dtype, entries),
            "topk_logprobs": (logprob, entries),
            "tail_log_mass": (np.dtype("<u2"), (len(NODES),)),
            "entropy": (HALF, ()),
            "gold_logprob": (HALF, ()),
            "gold_rank": (self.id_dtype, ()),
        }
        tail, samples = self.targets.tail, (self.targets.tail_samples,)
        if tail == "renormalize":
            del fields["tail_log_mass"]
        elif tail == "lowrank":
            fields["tail_codes"] = (np.dtype("i1"), (self.tail_width,))
        elif tail == "hidden":
            fields["tail_hidden"] = (HALF, (self.tail_width,))
        elif tail == "sampled":
            fields["tail_ids"] = (self.id_dtype, samples)
            fields["tail_logprobs"] = (HALF, samples)
        return fields

    def target_fields(self) -> dict[str, Field]:
        """Those of them that soft targets are made of; the others are for reports."""
        reports = ("entropy", "gold_logprob", "gold_rank")
        return {name: field for name, field in self.row_fields().items() if name not in reports}

    def datasets(self, num_documents: int, num_tokens: int) -> dict[str, Field]:
        """Dtype and full shape of every dataset of a shard; ANY where only the shard knows."""
        num_rows = num_tokens - num_documents
        datasets: dict[str, Field] = {
            "task_ids": (np.dtype("<i8"), (num_documents,)),
            "prompt_lengths": (np.dtype("<i4"), (num_documents,)),
            "token_offsets": (np.dtype("<i8"), (num_documents + 1,)),
            "token_ids": (self.id_dtype, (num_tokens,)),
            "fidelity": (HALF, (ANY, NUM_MEASURES)),
        }
        if self.marked:
            datasets["token_marks"] = (np.dtype("u1"), (num_tokens,))
        for name, (dtype, rest) in self.row_fields().items():
            datasets[name] = (dtype, (num_rows, *rest))
        if self.ragged:
            datasets["topk_counts"] = (np.dtype("<u2"), (num_rows,))
            for name in ("topk_ids", "topk_logprobs"):
                datasets[name] = (datasets[name][0], (ANY,))
        if "tail_codes" in datasets:
            del datasets["tail_codes"]
            num_groups = -(-num_rows // GROUP_ROWS)
            datasets["tail_states"] = (np.dtype("<u4"), (num_rows,))
            datasets["tail_words"] = (np.dtype("<u2"), (ANY,))
            datasets["tail_word_offsets"] = (np.dtype("<i8"), (num_groups + 1,))
        return datasets

    def largest(self, name: str, num_rows: int) -> int:
        """Most entries that a dataset of unknown length can have for so many rows."""
        return num_rows * {
            "topk_ids": self.num_entries,
            "topk_logprobs": self.num_entries,
            "tail_words": self.tail_width,
            "fidelity": 1,
        }.get(name, 0)

    def raw_bytes(self, num_documents: int, num_tokens: int) -> int:
        """Bytes of a shard's datasets before HDF5's filters, about: entropy codes as asked for."""
        num_rows = num_tokens - num_documents
        tail_bytes = self.targets.tail_bytes or _AUTO_BYTES * self.tail_width
        about = {
            "topk_ids": num_rows * self.num_entries,
            "topk_logprobs": num_rows * self.num_entries,
            "tail_words": num_rows * tail_bytes / 2,
            "fidelity": num_rows / SAMPLE_EVERY,
        }
        return round(
            sum(
                dtype.itemsize * np.prod([about[name] if n == ANY else n for n in shape])
                for name, (dtype, shape) in self.datasets(num_documents, num_tokens).items()
            )
        )
