"""Agreement of one model with the teacher, kept as files: sums of every document, and of a live
teacher the hidden states that all others are compared with."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from evaluation.agreement.held_out import (
    CachedTeacher,
    HeldOut,
    LiveTeacher,
    Reference,
    measure_documents,
)
from evaluation.agreement.scores import Agreement, DocumentSums, RowSums, summarize
from evaluation.comparison.kept import keep_json
from evaluation.comparison.shared_settings import SharedSettings, hash_of
from evaluation.generation.tokens import position_limit
from evaluation.judging.progress import StageProgress
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import ModelSource, list_sources, load_model


def measure_agreement(
    source: ModelSource,
    model: ModelOnDemand,
    shared: SharedSettings,
    stem: str,
    progress: StageProgress,
) -> tuple[Agreement | None, str | None]:
    """Agreement of a model, or None and why there is none; kept in `out/agreement`.

    Args:
        stem: names the model and its weights in file names.

    Raises: EvaluationError when a live teacher cannot be loaded or lacks positions.
    """
    held_out = shared.held_out
    if held_out is None:
        return None, None
    folder = shared.config.out / "agreement"
    told = [shared.agreement_signature, [field.name for field in fields(RowSums)]]
    path = folder / f"{stem}-{hash_of(told)[:8]}.json"

    def make() -> dict[str, Any]:
        loaded, tokenizer = model()
        why = held_out.why_not_comparable(loaded, tokenizer)
        reference: Reference | None = CachedTeacher(held_out)
        if why is None and shared.live_teacher is not None:
            reference, why = _live(source, model, shared, held_out, folder, progress)
        if reference is None or why is not None:
            return {"skipped": why}
        limit = position_limit(loaded)
        documents = measure_documents(
            loaded,
            held_out,
            reference,
            lambda count: progress("agreement", count, held_out.num_documents),
        )
        return {
            "signature": shared.agreement_signature,
            "reference": reference.name,
            "num_cut": 0 if limit is None else int((held_out.lengths > limit).sum()),
            "documents": [asdict(document) for document in documents],
        }

    kept = keep_json(path, make)
    if "skipped" in kept:
        return None, kept["skipped"]
    documents = [_document_from_json(document) for document in kept["documents"]]
    return summarize(documents, reference=kept["reference"], num_cut=kept["num_cut"]), None


def _document_from_json(content: dict[str, Any]) -> DocumentSums:
    scopes = {scope: RowSums(**content[scope]) for scope in ("whole", "completion")}
    return DocumentSums(task_id=content["task_id"], **scopes)


def _live(
    source: ModelSource,
    model: ModelOnDemand,
    shared: SharedSettings,
    held_out: HeldOut,
    folder: Path,
    progress: StageProgress,
) -> tuple[LiveTeacher | None, str | None]:
    """The live teacher's predictions, or why they say nothing about the cache's documents."""
    config = shared.config
    (teacher,) = list_sources((), config.teacher, config.revision)
    key = hash_of(shared.agreement_signature)
    path = folder / f"live-teacher-{key[:8]}.safetensors"
    if not path.is_file():
        own = ModelOnDemand(lambda: load_model(teacher, shared.dtype, shared.device), shared.device)
        try:
            loaded, tokenizer = model() if source.is_teacher else own()
            why = held_out.why_not_comparable(loaded, tokenizer)
            if why is not None:
                return None, f"of the live teacher, {why}"
            LiveTeacher.save(
                path,
                loaded,
                held_out,
                lambda count: progress("teacher's rows", count, held_out.num_documents),
            )
        finally:
            own.close()
    return LiveTeacher(path, shared.device), None
