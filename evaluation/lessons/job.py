"""What a configuration stands for: problems, form, writer, and all that decides the bytes."""

from dataclasses import dataclass
from typing import Any

import torch

from cache.data.chat import template_sha256
from cache.data.problems import Problem, dataset_sha256
from cache.data.templates import CHAT
from cache.machine.precision import dtype_name, resolve_dtype
from cache.teacher.load import load_tokenizer, tokenizer_sha256
from evaluation.errors import EvaluationError
from evaluation.lessons.ask import Form, form_of, read_rows
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.rows import Provenance
from evaluation.models.sources import ModelSource, model_identity, resolve_device
from evaluation.sandbox.checks import sandbox_level


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A configuration with what it stands for."""

    config: LessonsConfig
    rows: tuple[Problem, ...]
    """Problems of the dataset."""
    tokenizer: Any
    """The teacher's."""
    form: Form
    writer: ModelSource
    device: torch.device
    dtype: torch.dtype
    provenance: Provenance
    asked: dict[str, Any]
    """All that decides what is drawn and how it is judged."""


def prepare(config: LessonsConfig) -> Job:
    """What a configuration stands for; no model is loaded.

    Raises: EvaluationError, CacheError: no problems, no tests, no template, no sandbox, or a
        student of another tokenizer.
    """
    rows = read_rows(config)
    tokenizer = load_tokenizer(config.teacher, config.revision)
    form = form_of(config, tokenizer)
    writer = _writer(config, tokenizer)
    identity = model_identity(writer)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    judging = (
        f"{config.limits.signature}|sandbox:{sandbox_level(config.allow_weak_sandbox)}"
        f"{'' if config.self_check else '|unproven'}"
    )
    settings = (
        f"{config.sampling.signature}|template:{form.template}"
        f"{'|fenced' if form.fenced else ''}|examples:{form.num_examples}|dtype:{dtype_name(dtype)}"
    )
    return Job(
        config=config,
        rows=tuple(rows),
        tokenizer=tokenizer,
        form=form,
        writer=writer,
        device=device,
        dtype=dtype,
        provenance=Provenance(
            origin=config.origin,
            writer=writer.label,
            writer_identity=identity,
            teacher=_label(config.teacher),
            settings=settings,
            stops=form.stop,
            judging=judging,
        ),
        asked={
            "writer": identity,
            "tokenizer": tokenizer_sha256(tokenizer),
            "chat_template": template_sha256(tokenizer) if form.template == CHAT else "",
            "problems": dataset_sha256(rows),
            "examples": dataset_sha256(form.examples),
            "settings": settings,
            "stops": list(form.stop),
            "batch_size": config.batch_size,
            "judging": judging,
            "invent": config.invent,
        },
    )


def _writer(config: LessonsConfig, tokenizer: Any) -> ModelSource:
    """Who writes.

    Raises: EvaluationError when a student has another tokenizer than the teacher.
    """
    if config.writer is not None:
        own = load_tokenizer(config.writer)
        if tokenizer_sha256(own) != tokenizer_sha256(tokenizer):
            raise EvaluationError(
                f"the writer {config.writer} has another tokenizer than {config.teacher}, so it "
                "was not distilled from it. Name the teacher that it learns from in --teacher"
            )
    source = config.teacher if config.writer is None else config.writer
    return ModelSource(
        label=_label(source),
        source=source,
        is_teacher=config.writer is None,
        revision=config.revision if config.writer is None else None,
    )


def _label(source: str) -> str:
    """The last part of a hub id or path: where a model lies decides nothing."""
    return source.rstrip("/").rpartition("/")[2] or source
