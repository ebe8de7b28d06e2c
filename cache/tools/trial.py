"""Target formats tried on a few rows of the teacher: bytes a row on disk, and fidelity.

The teacher runs once; its hidden states are kept, and logits are made again from them where a
format needs them. N rows, D width, V vocabulary, K entries, R rank.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import h5py
import numpy as np
import torch

from cache.building.encode import ComputedRows
from cache.building.fit_basis import (
    FIT_ROWS,
    FitRows,
    collect_rows,
    finish_basis,
    logits_every,
    with_rows,
)
from cache.building.writer import ShardAssembly
from cache.data.documents import Document
from cache.errors import CacheError
from cache.storage.layout import ShardLayout
from cache.storage.shard import ENTROPY_CODED, image_of
from cache.targets.basis import BasisFit, TailBasis
from cache.targets.fidelity import Fidelity, measure_rows, require_numbers, sampled_rows, summarise
from cache.targets.format import TargetFormat
from cache.targets.row_codec import EncodedRows, OutputHead, RowCodec
from cache.teacher.rows import (
    LogitSlice,
    head_slices,
    pad_documents,
    pad_positions,
    plan_batches,
    reduce_slices,
)
from cache.teacher.teacher import Teacher, head_of

FIDELITY_ROWS = 512
"""Rows that fidelity is measured on, where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a target format costs and gives."""

    bytes_per_row: float
    """On disk, all that a row needs: its token id and its part of documents and HDF5 included."""
    shared_bytes: int
    """Once a cache: the basis, or the output head."""
    num_columns: int
    """Columns of the matrix product that rebuilds the tail in training; 0 without one."""
    fidelity: tuple[Fidelity, ...]


class Trial:
    """Rows of the first documents, half to fit bases on and half to measure on."""

    def __init__(
        self,
        teacher: Teacher,
        documents: Sequence[Document],
        *,
        num_tokens: int,
        num_rows: int,
        batch_tokens: int,
        shard_rows: int,
        fidelity_rows: int = FIDELITY_ROWS,
    ):
        """Run the teacher.

        Args:
            teacher: its hidden states are taken, and its head is used later.
            documents: the first of them are used; the order decides which.
            num_tokens: ids that the tokenizer has, which share an even tail.
            num_rows: about how many rows to run; half, at most FIT_ROWS, fit the bases.
            batch_tokens: padded tokens of a batch.
            shard_rows: rows of the shards to be, which share the fixed bytes of their files.
            fidelity_rows: rows whose full softmax is held against the decoded one, evenly
                spaced over those measured.

        Raises:
            CacheError: there are fewer than two documents.
        """
        half = max(1, num_rows // 2)
        fitted = with_rows(documents, min(half, FIT_ROWS))
        self._documents = with_rows(documents[len(fitted) :], half)
        if not self._documents:  # one document or few: share them evenly
            fitted = list(documents[: len(documents) // 2])
            self._documents = list(documents[len(fitted) :])
        if not fitted:
            raise CacheError(
                f"{len(documents)} document is too few: some fit the tail, others measure it.\n"
                "Give a dataset or a --limit with 2 or more."
            )
        self._teacher, self._num_tokens, self._shard_rows = teacher, num_tokens, shard_rows
        self._fidelity_rows = fidelity_rows
        self._fit_lengths = [document.num_rows for document in fitted]
        self._fit_hidden = _hidden_states(teacher, fitted, batch_tokens)
        self._hidden = _hidden_states(teacher, self._documents, batch_tokens)
        gold = np.concatenate([document.token_ids[1:] for document in self._documents])
        self._gold_ids = torch.from_numpy(gold).to(self._hidden.device)
        self._head = head_of(teacher.model)
        self._fits: dict[int, BasisFit] = {}
        self._encoded: dict[tuple[int, int], EncodedRows] = {}

    @property
    def width(self) -> int:
        """D: the most that a rank can be."""
        return self._head.weight.shape[1]

    @property
    def num_fit_rows(self) -> int:
        """Rows that bases are fitted on."""
        return len(self._fit_hidden)

    @property
    def num_rows(self) -> int:
        """Rows that bytes are measured on."""
        return len(self._hidden)

    @torch.inference_mode()
    def measure(self, targets: TargetFormat, temperatures: Sequence[float]) -> TrialResult:
        """Encode, pack, decode and compare.

        Raises:
            CacheError: logits are not finite.
        """
        basis = self._basis(targets) if targets.tail == "lowrank" else None
        head = None
        if targets.tail == "hidden":
            head = self._head.reaching(float(self._fit_hidden.abs().max()))
        codec = RowCodec(
            targets,
            self._teacher.vocab_size,
            basis=basis,
            head=head,
            softcap=self._head.softcap,
            num_tokens=self._num_tokens,
        )
        rows = self._encode(targets, codec, basis)
        return TrialResult(
            bytes_per_row=self._bytes_per_row(targets, codec, rows),
            shared_bytes=_shared_bytes(basis or head),
            num_columns=codec.tail_width,
            fidelity=self._fidelity(codec, rows, temperatures),
        )

    def _basis(self, targets: TargetFormat) -> TailBasis:
        """The basis of a format; what depends on k alone is collected once a k."""
        if targets.top_k not in self._fits:
            rows = self._fit_rows()
            fit = collect_rows(self._head, rows, targets.top_k, self.num_fit_rows)
            self._fits[targets.top_k] = fit
        return finish_basis(self._fits[targets.top_k], targets).to(self._hidden.device)

    def _fit_rows(self) -> Iterator[FitRows]:
        every = logits_every(self.num_fit_rows)
        for i, document in enumerate(self._fit_hidden.split(self._fit_lengths)):
            if i % every:
                yield document, None
                continue
            no_gold = torch.zeros(len(document), dtype=torch.int64)
            for logits, hidden, _ in self._slices(document, no_gold):
                yield hidden, logits

    def _encode(
        self, targets: TargetFormat, codec: RowCodec, basis: TailBasis | None
    ) -> EncodedRows:
        if basis is None:
            return self._encode_all(codec)
        key = (targets.top_k, targets.logprob_bits)
        if key not in self._encoded:  # all but the codes is the same for every basis
            plain = TargetFormat(
                top_k=targets.top_k, logprob_bits=targets.logprob_bits, tail="mass"
            )
            self._encoded[key] = self._encode_all(RowCodec(plain, self._teacher.vocab_size))
        rows = self._encoded[key]
        return rows | {"tail_codes": basis.quantise(self._hidden, codec.scale(rows))}

    def _encode_all(self, codec: RowCodec) -> EncodedRows:
        generator = torch.Generator(self._hidden.device).manual_seed(0)
        parts = []
        slices = self._slices(self._hidden, self._gold_ids)
        for logits, hidden, gold_ids in reduce_slices(slices):
            parts.append(codec.encode(logits, hidden, gold_ids, generator))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _fidelity(
        self, codec: RowCodec, rows: EncodedRows, temperatures: Sequence[float]
    ) -> tuple[Fidelity, ...]:
        every = max(1, self.num_rows // self._fidelity_rows)
        places = sampled_rows(0, self.num_rows, every)
        sample = torch.tensor(places, device=self._hidden.device)
        measured = []
        slices = self._slices(self._hidden[sample], sample)
        for logits, _, indices in reduce_slices(slices):
            decoded = codec.decode({name: part[indices] for name, part in rows.items()})
            measured.append(measure_rows(logits, decoded, temperatures))
        rows_measured = torch.cat(measured).cpu().numpy()
        require_numbers(rows_measured)
        return summarise(rows_measured, temperatures)

    def _slices(self, hidden: torch.Tensor, beside: torch.Tensor) -> Iterator[LogitSlice]:
        return head_slices(self._teacher.logits, hidden, beside, self._teacher.vocab_size)

    def _bytes_per_row(self, targets: TargetFormat, codec: RowCodec, rows: EncodedRows) -> float:
        layout = ShardLayout(
            vocab_size=self._teacher.vocab_size, targets=targets, tail_width=codec.tail_width
        )
        assembly = ShardAssembly(self._documents, layout, codec.tables)
        assembly.add(range(len(self._documents)), ComputedRows(slices=[rows], fidelity=[]))
        arrays = assembly.datasets()
        image = image_of(arrays, "0" * 64)
        with h5py.File(io.BytesIO(image), "r") as file:
            stored = {name: file[name].id.get_storage_size() for name in arrays}
        fixed = len(image) - sum(stored.values())
        # A last chunk that no filter cuts is stored whole; in a full shard it hardly counts.
        stored |= {name: arrays[name].nbytes for name in ENTROPY_CODED if name in arrays}
        return sum(stored.values()) / self.num_rows + fixed / self._shard_rows


def _hidden_states(
    teacher: Teacher, documents: Sequence[Document], batch_tokens: int
) -> torch.Tensor:
    """(N, D) of the documents' rows, end to end in their order, on the head's device."""
    states: dict[int, torch.Tensor] = {}
    for indices in plan_batches(documents, batch_tokens):
        batch = [documents[i] for i in indices]
        hidden = teacher.hidden(pad_documents(batch), pad_positions(batch))  # (B, S, D)
        for row, index, document in zip(hidden, indices, batch, strict=True):
            states[index] = row[: document.num_rows].to(teacher.head.weight.device)
    return torch.cat([states[index] for index in range(len(documents))])


def _shared_bytes(tail: TailBasis | OutputHead | None) -> int:
    if tail is None:
        return 0
    parts = (getattr(tail, field.name) for field in fields(tail))
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
