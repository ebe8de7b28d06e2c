"""Checking a cache against its teacher: some documents are run again and compared row by row.

Checksums prove that a cache is what was written; this proves that what was written is what the
teacher says: the tail's file is its, and rows are those that stage one would write now, as a reader
decodes them. N rows.
"""

import random
from dataclasses import replace
from pathlib import Path

import torch

from cache.data.documents import Document
from cache.errors import CacheError
from cache.machine.progress import BuildProgress
from cache.reading.reader import CacheReader
from cache.storage.identity import Identity, require_same_identity
from cache.storage.layout import ShardLayout
from cache.storage.packing import to_tensors
from cache.storage.tail_file import TAIL_FILE, load_basis, load_codec, load_head
from cache.targets.row_codec import EncodedRows, RowCodec
from cache.teacher.load import load_causal_lm
from cache.teacher.rows import logit_slices, reduce_slices
from cache.teacher.teacher import Teacher, head_of
from cache.tools.live_report import LiveReport, LiveTally
from cache.tools.live_rows import RowComparison, compare_rows, join, teacher_dtype


def verify_live(
    directory: Path,
    *,
    num_documents: int,
    seed: int,
    teacher: str | None = None,
    device_map: str | None = "auto",
) -> LiveReport:
    """Run the teacher on random documents of a cache and compare; see `compare_rows`.

    Args:
        directory: a complete cache.
        num_documents: how many, from all splits; all of them if there are fewer.
        seed: of the choice.
        teacher: hub id, folder or .gguf file; by default the name that the cache was built with.
        device_map: as in transformers.

    Raises:
        CacheError: the cache cannot be read, or the teacher's weights or configuration are not
            those it was built with.
    """
    if num_documents < 1:
        raise CacheError(f"num_documents is {num_documents}; it must be 1 or more.")
    with CacheReader(directory) as reader:
        model = _load_teacher(reader, teacher, device_map)
        codec = load_codec(directory, reader.identity).to(model.head.weight.device)
        places = [(s, i) for s in reader.splits for i in range(reader.num_documents(s))]
        chosen = sorted(random.Random(seed).sample(places, min(num_documents, len(places))))
        total = sum(int(reader.document_lengths(split)[i]) - 1 for split, i in chosen)
        tally = LiveTally()
        with BuildProgress(total=total, done=0) as progress:
            for split, index in chosen:
                document = _document(reader, split, index)
                compared = _compare_document(reader, model, codec, split, index, document)
                tally.add(split, index, document.task_id, compared)
                progress.advance(document.num_rows)
        return tally.report(
            documents=len(chosen),
            fidelity=reader.fidelity(),
            tail_problem=_tail_problem(directory, reader.identity, model),
        )


def _load_teacher(reader: CacheReader, name: str | None, device_map: str | None) -> Teacher:
    identity = reader.identity
    chosen = name or identity.teacher
    model = load_causal_lm(
        chosen,
        revision=identity.revision if chosen == identity.teacher else None,
        dtype=teacher_dtype(identity),
        device_map=device_map,
    )
    teacher = Teacher(model)
    require_same_identity(
        identity,
        replace(identity, **teacher.identity_fields),
        f"The cache at {reader.path}, beside {chosen},",
        advice="Rows of two teachers cannot be compared; name the cache's own with --teacher.",
    )
    return teacher


def _tail_problem(directory: Path, identity: Identity, teacher: Teacher) -> str | None:
    """What is wrong with the tail's file: it holds the teacher's head, or a basis seen through it.

    A basis cannot be made again from a few documents, but its mean is the head's logits of its
    mean hidden state.
    """
    kind, path = identity.targets.tail, directory / TAIL_FILE
    if kind not in ("hidden", "lowrank"):
        return None
    head = head_of(teacher.model)
    weight, bias = head.weight.cpu(), head.bias.cpu()
    if kind == "hidden":
        stored = load_head(directory, identity)
        pairs = [(stored.weight, weight), (stored.bias, bias)]
    else:
        basis = load_basis(path, vocab_size=identity.vocab_size, rank=identity.tail_width)
        pairs = [(basis.mean, weight @ basis.center + bias)]
    if all(bool((a - b).norm() <= 1e-2 * b.norm() + 1e-6) for a, b in pairs):
        return None
    return f"{path} was not made from this teacher's output head."


def _document(reader: CacheReader, split: str, index: int) -> Document:
    found = reader.read(split, [index])
    return Document(
        task_id=int(found.task_ids[0]),
        token_ids=found.token_ids,
        prompt_length=int(found.prompt_lengths[0]),
        marks=found.marks,
        isolated=found.isolated,
    )


def _compare_document(
    reader: CacheReader,
    teacher: Teacher,
    codec: RowCodec,
    split: str,
    index: int,
    document: Document,
) -> dict[str, RowComparison]:
    """The whole document, encoded anew slice by slice as stage one does."""
    names = ShardLayout.of(reader.identity).row_fields()
    rows = to_tensors({name: reader.read_rows(split, [index], name) for name in names})
    device, dtype = teacher.head.weight.device, teacher_dtype(reader.identity)
    generator = torch.Generator(device).manual_seed(document.task_id)
    parts, start = [], 0
    for logits, hidden, gold_ids in reduce_slices(logit_slices(teacher, [document])):
        own = slice(start, start + len(logits))
        stored: EncodedRows = {name: value[own].to(device) for name, value in rows.items()}
        live = codec.encode(logits, hidden, gold_ids, generator)
        parts.append(compare_rows(logits, stored, live, codec, dtype))
        start += len(logits)
    return {name: join([part[name] for part in parts]) for name in parts[0]}
