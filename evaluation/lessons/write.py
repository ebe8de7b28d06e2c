"""From a configuration to a file of lessons: ask, draw, judge, choose, write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cache.building.workers import Worker
from cache.data.problems import Problem
from cache.machine.durable import make_directory, remove_partials
from cache.machine.lock import prepare_lock, worker_lock, writer_lock
from evaluation.errors import EvaluationError
from evaluation.judging.trivial import trivial_answers
from evaluation.lessons.ask import questions_of
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.invent import draw_inventions, sift
from evaluation.lessons.job import Job, prepare
from evaluation.lessons.join import join_parts
from evaluation.lessons.parts import Part, Plan, draw, judge_part, plan_parts, take_up
from evaluation.lessons.progress import LessonProgress
from evaluation.lessons.prove import Answers
from evaluation.lessons.stats import LessonStats
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import load_model


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a call left."""

    stats: LessonStats | None
    """Of all; None: parts of other workers are missing."""
    missing: int
    """Parts that are not done yet."""


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
    job = prepare(config)
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
            model = ModelOnDemand(lambda: load_model(job.writer, job.dtype, job.device), job.device)
            plan = _plan(job, model)
        _work(job, plan.parts, worker.of(plan.parts) if worker else plan.parts, model)
        model.close()
        with prepare_lock(config.work):
            missing = sum(not part.is_done for part in plan.parts)
            if missing:
                return Written(stats=None, missing=missing)
            return Written(stats=join_parts(config, plan, job.provenance), missing=0)


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


def _plan(job: Job, model: ModelOnDemand) -> Plan:
    """What is asked, in parts; problems are invented first, if any are to be.

    Raises: EvaluationError when no problem can be asked.
    """
    rows: Sequence[Problem] = job.rows
    inventions: dict[str, int] = {}
    cost = (0, 0.0)
    if job.config.invent:
        drawn = draw_inventions(job, model)
        cost = (drawn.tokens, drawn.seconds)
        sifted = sift(job, drawn)
        rows, inventions = sifted.rows, {"asked for": job.config.invent, **sifted.left_out}
        if not rows:
            words = ", ".join(f"{reason} {count}" for reason, count in sifted.left_out.items())
            raise EvaluationError(
                f"{job.provenance.writer} invented {job.config.invent} problems, and none can be "
                f"used: {words}. Ask for more with --invent, or take a stronger teacher"
            )
    questions, skipped = questions_of(rows, job.form, job.tokenizer)
    if not questions:
        task_id, reason = next(iter(skipped.items()))
        raise EvaluationError(
            f"none of {len(rows)} problems can be asked; task_id {task_id}: {reason}"
        )
    return Plan(
        parts=tuple(plan_parts(questions, job.config)),
        skipped={str(task_id): reason for task_id, reason in skipped.items()},
        inventions=inventions,
        invention_tokens=cost[0],
        invention_seconds=cost[1],
    )


def _work(job: Job, every: Sequence[Part], parts: Sequence[Part], model: ModelOnDemand) -> None:
    """Do those of some of the parts that are missing."""
    config = job.config
    kept = [(part, part.drawn(), part.judged()) for part in parts]
    if all(drawn is not None and judged is not None for _, drawn, judged in kept):
        return
    trivial = _trivial(job, every)
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


def _trivial(job: Job, parts: Sequence[Part]) -> Answers:
    if not job.config.self_check:
        return {}
    questions = (question for part in parts for question in part.questions)
    return trivial_answers([q.problem for q in questions if q.problem is not None])
