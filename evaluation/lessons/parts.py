"""The work in parts, each kept as soon as it is done, so that a stopped call goes on.

A part is some problems with all of their samples. It is computed on its own, in the same batches
whoever computes it, so that a call that was killed or divided among processes ends with the same
bytes as one that was not. `part-00000.drawn.json` holds what the model wrote and is written before
a program is run; `part-00000.judged.json` holds the verdicts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.machine.durable import read_sealed_json, write_sealed_json
from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample, draw_each
from evaluation.generation.generate import Request
from evaluation.judging.scoring import judge
from evaluation.lessons.ask import Form, Question, code_of
from evaluation.lessons.config import LessonsConfig
from evaluation.lessons.prove import Answers, find_untrusted
from evaluation.sandbox.checks import Verdict

PART_BATCHES = 4
"""Batches of a part, about: what a killed call loses at most."""
ASKED = "asked.json"
UNTESTED = Verdict(passed=False, outcome="no_tests", seconds=0.0, mode="not_run")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a model wrote."""

    skipped: dict[str, str]
    """Why some problems were not written for, by name."""
    samples: tuple[Sample, ...]
    """Problem by problem; `completion` is the code, `raw` all that was generated."""
    tokens: int
    """Generated."""
    seconds: float
    """Spent on that."""
    checks: int
    """Programs run to prove the problems."""
    check_seconds: float


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the samples of a part are worth."""

    verdicts: tuple[Verdict, ...]
    """In their order."""
    checks: int
    """Programs run."""
    check_seconds: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some problems, and where what becomes of them is kept."""

    number: int
    questions: tuple[Question, ...]
    folder: Path

    @property
    def drawn_path(self) -> Path:
        """What the model wrote."""
        return self.folder / f"part-{self.number:05d}.drawn.json"

    @property
    def judged_path(self) -> Path:
        """The verdicts."""
        return self.folder / f"part-{self.number:05d}.judged.json"

    @property
    def is_done(self) -> bool:
        """Whether both are there and whole."""
        return self.drawn() is not None and self.judged() is not None

    def drawn(self) -> Drawn | None:
        """What is kept of the model's answers; None where it is absent or not whole."""
        content = read_kept(self.drawn_path)
        if content is None:
            return None
        samples = tuple(Sample(**line) for line in content.pop("samples"))
        return Drawn(samples=samples, **content)

    def judged(self) -> Judged | None:
        """What is kept of the verdicts; None where they are absent or not whole."""
        content = read_kept(self.judged_path)
        if content is None:
            return None
        verdicts = tuple(Verdict(**line) for line in content.pop("verdicts"))
        return Judged(verdicts=verdicts, **content)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked, in parts."""

    parts: tuple[Part, ...]
    skipped: dict[str, str]
    """Problems that cannot be asked, and why, by task_id."""
    inventions: dict[str, int]
    """What became of invented problems before they are solved; empty where none were asked for."""
    invention_tokens: int
    """Generated to invent them."""
    invention_seconds: float
    """Spent on that."""


def plan_parts(questions: Sequence[Question], config: LessonsConfig) -> list[Part]:
    """The parts of a job: they depend on it alone."""
    size = max(1, PART_BATCHES * config.batch_size // config.samples)
    return [
        Part(
            number=number,
            questions=tuple(questions[first : first + size]),
            folder=config.work,
        )
        for number, first in enumerate(range(0, len(questions), size))
    ]


def take_up(folder: Path, asked: dict[str, Any]) -> None:
    """Note in a work folder what is asked for, or compare it with what was.

    Raises: EvaluationError naming each option that differs.
    """
    path = folder / ASKED
    if not path.is_file():
        write_sealed_json(path, asked, EvaluationError)
        return
    there = read_sealed_json(path)
    lines = [
        f"  {name}: {there.get(name)!r} there, {asked.get(name)!r} asked for"
        for name in {**asked, **there}
        if there.get(name) != asked.get(name)
    ]
    if lines:
        raise EvaluationError(
            f"{folder} was begun with other options:\n" + "\n".join(lines) + "\nGive those again "
            "to go on, or another --out; or remove that folder to begin anew."
        )


def draw(
    part: Part,
    load: Callable[[], tuple[Any, Any]],
    config: LessonsConfig,
    form: Form,
    trivial: Answers,
    on_sample: Callable[[Sample], None],
) -> Drawn:
    """Have the model write, and keep it.

    Args:
        load: gives model and tokenizer.
        trivial: trivial answers; none where the problems need no proof.

    Raises: EvaluationError when memory or disk do not suffice.
    """
    skipped: dict[str, str] = {}
    checks, check_seconds = 0, 0.0
    if trivial:
        began = time.monotonic()
        problems = [q.problem for q in part.questions if q.problem is not None]
        skipped, checks = find_untrusted(problems, trivial, config.limits, config.workers)
        check_seconds = time.monotonic() - began
    questions = {q.name: q for q in part.questions if q.name not in skipped}
    requests = [
        Request(task_id=name, sample=sample, prompt_ids=question.prompt_ids, stop=form.stop)
        for name, question in questions.items()
        for sample in range(config.samples)
    ]
    requests.sort(key=lambda request: -len(request.prompt_ids))  # least padding, largest first
    found: dict[tuple[str, int], Sample] = {}
    tokens, began = 0, time.monotonic()
    if requests:
        model, tokenizer = load()
        began = time.monotonic()
        for place, completion in draw_each(
            model, tokenizer, requests, config.sampling, config.batch_size
        ):
            request = requests[place]
            sample = Sample(
                task_id=request.task_id,
                sample=request.sample,
                completion=code_of(completion.text, form, questions[request.task_id]),
                finish=completion.finish,
                tokens=completion.num_tokens,
                raw=completion.raw,
            )
            found[request.task_id, request.sample] = sample
            tokens += completion.num_tokens
            on_sample(sample)
    drawn = Drawn(
        skipped=skipped,
        samples=tuple(found[name, n] for name in questions for n in range(config.samples)),
        tokens=tokens,
        seconds=time.monotonic() - began,
        checks=checks,
        check_seconds=check_seconds,
    )
    write_sealed_json(part.drawn_path, asdict(drawn), EvaluationError)
    return drawn


def judge_part(part: Part, drawn: Drawn, config: LessonsConfig) -> Judged:
    """Run the programs, and keep the verdicts.

    Raises: EvaluationError when the sandbox fails, or the disk is full; what was drawn is kept.
    """
    problems = {q.name: q.problem for q in part.questions if q.problem is not None}
    tested = [sample for sample in drawn.samples if sample.task_id in problems]
    began = time.monotonic()
    verdicts = iter(judge(tested, list(problems.values()), config.limits, config.workers))
    in_order = [next(verdicts) if s.task_id in problems else UNTESTED for s in drawn.samples]
    judged = Judged(
        verdicts=tuple(in_order),
        checks=sum(verdict.mode != "not_run" for verdict in in_order),
        check_seconds=time.monotonic() - began,
    )
    write_sealed_json(part.judged_path, asdict(judged), EvaluationError)
    return judged


def read_kept(path: Path) -> dict[str, Any] | None:
    """What a sealed file holds; None where it is absent or not whole."""
    try:
        return read_sealed_json(path)
    except CacheError:
        return None
