"""From a configuration to a file of lessons: ask, draw, judge, choose, write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cache.building.workers import Worker
from cache.data.problems import dataset_sha256
from cache.machine.durable import make_directory, remove_partials
from cache.machine.lock import prepare_lock, worker_lock, writer_lock
from cache.machine.precision import dtype_name, resolve_dtype
from cache.teacher.load import load_tokenizer, tokenizer_sha256
from evaluation.errors import EvaluationError
from evaluation.judging.trivial import trivial_answers
from evaluation.lessons.ask import Form, form_of, questions_of, read_rows
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.join import join_parts
from evaluation.lessons.parts import Part, draw, judge_part, plan_parts, take_up
from evaluation.lessons.progress import LessonProgress
from evaluation.lessons.prove import Answers
from evaluation.lessons.rows import Provenance
from evaluation.lessons.stats import LessonStats
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import ModelSource, load_model, model_identity, resolve_device
from evaluation.sandbox.checks import sandbox_level


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a call left."""

    stats: LessonStats | None
    """Of all; None: parts of other workers are missing."""
    missing: int
    """Parts that are not done yet."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A configuration with what it stands for."""

    config: LessonsConfig
    form: Form
    parts: tuple[Part, ...]
    skipped: dict[str, str]
    """Problems that cannot be asked, by task_id."""
    writer: ModelSource
    provenance: Provenance
    asked: dict[str, Any]
    """All that decides what is drawn and how it is judged."""


def write_lessons(config: LessonsConfig, worker: Worker | None = None) -> Written:
    """Draw solutions of each problem, run them against its tests, and write those that are kept.

    Stopped anywhere, the same call goes on, to the same lessons as one that was not. Several
    workers share the parts; who finds all done writes the lessons, as does a later call for all.
    Written are `config.out`, `config.failed` (what did not pass, with the reason) and
    `config.stats`; `config.work` keeps the parts.

    Args:
        worker: which of several processes this is; None does all that is missing.

    Raises: EvaluationError, CacheError: bad input, other lessons in the way, no sandbox, a full
        disk, or nothing to keep. What is finished is kept.
    """
    job = _prepare(config)
    if config.out.exists() and not config.work.is_dir():
        raise EvaluationError(
            f"{config.out} exists, and the folder of its parts ({config.work}) does not: it may "
            "be other lessons. Give another --out, or remove the file"
        )
    make_directory(config.work)
    with _own(config, worker):
        with prepare_lock(config.work):
            take_up(config.work, job.asked)
        _tidy(config, of_the_dead=worker is not None)
        _work(job, worker.of(job.parts) if worker is not None else job.parts)
        with prepare_lock(config.work):
            missing = sum(not part.is_done for part in job.parts)
            if missing:
                return Written(stats=None, missing=missing)
            stats = join_parts(job.config, job.parts, job.skipped, job.provenance)
            return Written(stats=stats, missing=0)


def _tidy(config: LessonsConfig, *, of_the_dead: bool) -> None:
    """Delete what killed calls left half-written."""
    names = {path.name for path in (config.out, config.failed, config.stats)}
    remove_partials(config.work, of_the_dead=of_the_dead)
    remove_partials(config.out.parent, names.__contains__, of_the_dead=of_the_dead)


@contextmanager
def _own(config: LessonsConfig, worker: Worker | None) -> Iterator[None]:
    if worker is None:
        with writer_lock(config.work):
            yield
    else:
        with worker_lock(config.work, worker.name, same=worker.siblings):
            yield


def _prepare(config: LessonsConfig) -> _Job:
    rows = read_rows(config)
    tokenizer = load_tokenizer(config.teacher, config.revision)
    form = form_of(config, tokenizer)
    questions, skipped = questions_of(rows, form, tokenizer)
    if not questions:
        task_id, reason = next(iter(skipped.items()))
        raise EvaluationError(
            f"none of the {len(rows)} problems of {config.dataset} can be asked; task_id "
            f"{task_id}: {reason}"
        )
    writer = _writer(config, tokenizer)
    identity = model_identity(writer)
    device = resolve_device(config.device)
    dtype = dtype_name(resolve_dtype(config.dtype, device))
    level = sandbox_level(config.allow_weak_sandbox)
    judging = f"{config.limits.signature}|sandbox:{level}"
    settings = (
        f"{config.sampling.signature}|template:{form.template}"
        f"{'|fenced' if form.fenced else ''}|examples:{form.num_examples}|dtype:{dtype}"
    )
    return _Job(
        config=config,
        form=form,
        parts=tuple(plan_parts(questions, config)),
        skipped={str(task_id): reason for task_id, reason in skipped.items()},
        writer=writer,
        provenance=Provenance(
            origin=config.origin,
            writer=writer.label,
            writer_identity=identity,
            teacher=config.teacher,
            settings=settings,
            judging=judging,
        ),
        asked={
            "writer": identity,
            "tokenizer": tokenizer_sha256(tokenizer),
            "problems": dataset_sha256(rows),
            "examples": dataset_sha256(form.examples),
            "settings": settings,
            "stops": list(form.stop),
            "batch_size": config.batch_size,
            "judging": judging,
            "self_check": config.self_check,
        },
    )


def _writer(config: LessonsConfig, tokenizer: Any) -> ModelSource:
    """Who writes.

    Raises: EvaluationError when a student has another tokenizer than the teacher.
    """
    source = config.teacher if config.writer is None else config.writer
    if config.writer is not None:
        own = load_tokenizer(config.writer)
        if tokenizer_sha256(own) != tokenizer_sha256(tokenizer):
            raise EvaluationError(
                f"the writer {config.writer} has another tokenizer than {config.teacher}, so it "
                "was not distilled from it. Name the teacher that it learns from in --teacher"
            )
    return ModelSource(
        label=source.rstrip("/").rpartition("/")[2] or source,
        source=source,
        is_teacher=config.writer is None,
        revision=config.revision if config.writer is None else None,
    )


def _work(job: _Job, parts: Sequence[Part]) -> None:
    """Do those of the parts that are missing."""
    config = job.config
    kept = [(part, part.drawn(), part.judged()) for part in parts]
    if all(drawn is not None and judged is not None for _, drawn, judged in kept):
        return
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    model = ModelOnDemand(lambda: load_model(job.writer, dtype, device), device)
    trivial = _trivial(job)
    samples = config.samples
    with LessonProgress(
        total=sum(len(part.questions) for part in parts) * samples,
        done=sum(len(p.questions) for p, drawn, _ in kept if drawn) * samples,
        passed=sum(v.passed for _, _, judged in kept if judged for v in judged.verdicts),
    ) as progress:
        for part, drawn, judged in kept:
            if drawn is None:
                drawn = draw(
                    part, model, config, job.form, trivial,
                    lambda sample: progress.advance(1, sample.tokens or 0),
                )  # fmt: skip
                progress.advance(len(drawn.skipped) * samples, 0)
                judged = None
            if judged is None:
                judged = judge_part(part, drawn, config)
                progress.judged(sum(verdict.passed for verdict in judged.verdicts))
    model.close()


def _trivial(job: _Job) -> Answers:
    if not job.config.self_check:
        return {}
    questions = (question for part in job.parts for question in part.questions)
    return trivial_answers([q.problem for q in questions if q.problem is not None])
