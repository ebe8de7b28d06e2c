"""Documents that students were not trained on, and what the teacher predicts in their rows:
from a cache, or from the live teacher.

N rows, D width, V vocabulary.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cache.data.documents import Document
from cache.errors import CacheError
from cache.machine.durable import atomic_path
from cache.reading.reader import CacheReader
from cache.targets.format import LogitMap
from cache.teacher.head import linear_of
from cache.teacher.logit_map import apply_logit_map
from cache.teacher.probe import require_understood
from cache.teacher.rows import hidden_rows, logit_slices, reduce_slices
from cache.teacher.teacher import Teacher
from evaluation.agreement.scores import DocumentSums, TeacherRows, row_values, sum_document
from evaluation.errors import EvaluationError
from evaluation.generation.tokens import position_limit, why_other_tokens

SPLIT = "validation"
# Padded tokens of a batch; of its rows only hidden states are kept at once, never logits.
BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutBatch:
    """Documents of about the same length."""

    indices: tuple[int, ...]
    """Places in the split."""
    documents: tuple[Document, ...]
    """Cut to the positions asked for."""
    rows: torch.Tensor
    """(N,) int64: which of the whole split's rows these are."""
    kept: torch.Tensor
    """(N,) int64: which of the uncut documents' rows, end to end, these are."""


class HeldOut:
    """The validation split of a cache."""

    def __init__(self, path: Path | str, max_documents: int):
        """Open it; the first `max_documents` are used.

        Raises: EvaluationError when there is no complete cache, or it has no such split.
        """
        try:
            self.reader = CacheReader(path)
            self.lengths = self.reader.document_lengths(SPLIT)[:max_documents]
        except CacheError as error:
            raise EvaluationError(f"agreement with the teacher: {error}") from error
        self.first_rows = np.concatenate([[0], np.cumsum(self.lengths - 1)])

    @property
    def num_documents(self) -> int:
        """Documents used."""
        return len(self.lengths)

    @property
    def signature(self) -> str:
        """The documents and the cache they come from, in one line."""
        return (
            f"cache:{self.reader.identity_hash[:12]}"
            f"|tail:{self.reader.identity.targets.tail}|split:{SPLIT}"
            f"|documents:{self.num_documents}|rows:{self.first_rows[-1]}"
        )

    @property
    def cache_kl(self) -> float | None:
        """KL(teacher ‖ stored targets) at T = 1 as measured in stage one; None if it was not."""
        measured = {part.temperature: part.kl for part in self.reader.fidelity()}
        return measured.get(1.0)

    def batches(self, limit: int | None = None) -> Iterator[HeldOutBatch]:
        """All documents, cut to `limit` tokens, longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, BATCH_TOKENS // int(self.lengths[order[start]]))
            yield self._batch(order[start : start + count].tolist(), limit)
            start += count

    def _batch(self, indices: list[int], limit: int | None) -> HeldOutBatch:
        found = self.reader.read(SPLIT, indices)
        documents, rows, kept = [], [], []
        first = 0
        for place, index in enumerate(indices):
            tokens = found.token_ids[found.token_offsets[place] : found.token_offsets[place + 1]]
            document = Document(
                task_id=int(found.task_ids[place]),
                token_ids=tokens[:limit].astype(np.int64),
                prompt_length=int(found.prompt_lengths[place]),
                marks=found.marks[found.token_offsets[place] : found.token_offsets[place + 1]][
                    :limit
                ],
                isolated=found.isolated,
            )
            documents.append(document)
            rows.append(self.first_rows[index] + np.arange(document.num_rows))
            kept.append(first + np.arange(document.num_rows))
            first += len(tokens) - 1
        return HeldOutBatch(
            indices=tuple(indices),
            documents=tuple(documents),
            rows=torch.from_numpy(np.concatenate(rows)),
            kept=torch.from_numpy(np.concatenate(kept)),
        )

    def why_not_comparable(self, model: Any, tokenizer: Any) -> str | None:
        """Why no row of the model can be compared with the cache's; None where all can be."""
        try:
            wrapped = Teacher(model)
            sizes = (wrapped.vocab_size, self.reader.vocab_size)
            why = why_other_tokens(sizes, (tokenizer, self.tokenizer()), "the cache's")
            if why is not None:
                return why
            limit, longest = position_limit(model), int(self.lengths.max())
            first = self._batch([0], limit).documents
            require_understood(wrapped, first, longest if limit is None else min(limit, longest))
        except CacheError as error:
            return str(error)
        return None

    def tokenizer(self) -> Any:
        """The tokenizer the documents were made with."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.reader.tokenizer_path)


class Reference(Protocol):
    """What the teacher predicts in the rows of held-out documents."""

    name: str

    def of(self, batch: HeldOutBatch) -> Callable[[slice, torch.Tensor], TeacherRows]:
        """A function from a slice of the batch's rows, and their gold ids, to predictions."""
        ...


class CachedTeacher:
    """The cache's stored targets: no teacher needed, true up to `HeldOut.cache_kl`."""

    name = "cache"

    def __init__(self, held_out: HeldOut):
        self._reader = held_out.reader

    def of(self, batch: HeldOutBatch) -> Callable[[slice, torch.Tensor], TeacherRows]:
        """Decodes each slice's distribution when it is asked for."""
        targets = self._reader.read(SPLIT, batch.indices).targets.select(batch.kept)
        stored = self._reader.read_rows(SPLIT, batch.indices, "gold_logprob")
        gold = torch.from_numpy(stored.astype(np.float32))[batch.kept]

        def rows(part: slice, gold_ids: torch.Tensor) -> TeacherRows:
            places = torch.arange(part.start, part.stop)
            there = targets.select(places).to(gold_ids.device)
            probs = there.at(1.0).to_dense(there.vocab_size)
            return TeacherRows(probs, there.topk_ids[:, 0], gold[part].to(gold_ids.device))

        return rows


class LiveTeacher:
    """The teacher's own logits: hidden states kept, and its output head applied again."""

    name = "live"

    def __init__(self, path: Path, device: torch.device):
        """Open what `save` has written."""
        with safe_open(path, framework="pt") as file:
            self._hidden = file.get_tensor("hidden")  # (N, D)
            self._weight = file.get_tensor("weight").to(device)  # (V, D)
            has_bias = "bias" in file.keys()
            self._bias = file.get_tensor("bias").to(device) if has_bias else None
            self._logit_map = LogitMap(**json.loads(file.metadata()["logits"]))

    @staticmethod
    def save(path: Path, model: Any, held_out: HeldOut, on_done: Callable[[int], None]) -> None:
        """Write the teacher's hidden states of all rows, and its output head, whole or not.

        Raises: EvaluationError when the teacher has not the positions for the documents.
        """
        limit, longest = position_limit(model), int(held_out.lengths.max())
        if limit is not None and limit < longest:
            raise EvaluationError(
                f"live agreement needs {longest} positions for the cache's documents, and this "
                f"teacher has {limit}. Leave --live-agreement away to compare with the cache"
            )
        teacher = Teacher(model)
        states: torch.Tensor | None = None
        for batch in held_out.batches():
            hidden = hidden_rows(teacher, batch.documents).cpu()
            if states is None:
                states = hidden.new_empty(int(held_out.first_rows[-1]), hidden.shape[-1])
            states[batch.rows] = hidden
            on_done(len(batch.documents))
        assert states is not None
        weight, bias = linear_of(teacher.head)
        head = {"weight": weight, "bias": bias}
        tensors = {k: v.cpu().contiguous() for k, v in head.items() if v is not None}
        with atomic_path(path, EvaluationError) as partial:
            told = {"logits": json.dumps(asdict(teacher.logit_map))}
            save_file({"hidden": states, **tensors}, partial, metadata=told)

    def of(self, batch: HeldOutBatch) -> Callable[[slice, torch.Tensor], TeacherRows]:
        """Applies the output head to each slice when it is asked for."""

        def rows(part: slice, gold_ids: torch.Tensor) -> TeacherRows:
            hidden = self._hidden[batch.rows[part]].to(self._weight.device)
            products = torch.nn.functional.linear(hidden, self._weight, self._bias)
            logits = apply_logit_map(products, self._logit_map)
            log_p = logits.float().log_softmax(-1)  # (n, V)
            return TeacherRows(
                log_p.exp(),
                log_p.argmax(-1),
                log_p.gather(-1, gold_ids.unsqueeze(-1)).squeeze(-1),
            )

        return rows


def measure_documents(
    model: Any,
    held_out: HeldOut,
    reference: Reference,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[DocumentSums]:
    """Sums of every document, in the split's order, for a model that is comparable.

    Documents longer than the model's positions are cut to them.
    """
    wrapped, tokenizer = Teacher(model), held_out.tokenizer()
    done: dict[int, DocumentSums] = {}
    for batch in held_out.batches(position_limit(model)):
        rows, values, start = reference.of(batch), [], 0
        for logits, _, gold_ids in reduce_slices(logit_slices(wrapped, batch.documents)):
            part = slice(start, start + len(logits))
            values.append(row_values(logits, gold_ids, rows(part, gold_ids)))
            start = part.stop
        table, start = torch.cat(values).cpu().numpy(), 0
        for index, document in zip(batch.indices, batch.documents, strict=True):
            mine = table[start : start + document.num_rows]
            start += document.num_rows
            done[index] = sum_document(
                document.task_id, mine, document.prompt_length, _num_bytes(tokenizer, document)
            )
        on_done(len(batch.documents))
    return [done[index] for index in range(held_out.num_documents)]


def _num_bytes(tokenizer: Any, document: Document) -> tuple[int, int]:
    """Bytes of the text after the first token, and after the prompt."""

    def size(token_ids: np.ndarray) -> int:
        text = tokenizer.decode(
            token_ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return len(text.encode())

    whole = size(document.token_ids)
    prompt = size(document.token_ids[: document.prompt_length])
    return whole - size(document.token_ids[:1]), whole - prompt
