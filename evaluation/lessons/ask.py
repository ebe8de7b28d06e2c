"""Problems to what a model is asked, and its answers to code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cache.data.chat import chat_document, render
from cache.data.conversations import Conversation
from cache.data.problems import Problem, load_problems, read_problems
from cache.data.templates import CHAT, TEMPLATES, chat_messages, opening_of, signature_head
from cache.errors import CacheError
from evaluation.errors import EvaluationError
from evaluation.generation.tokens import encode_opening
from evaluation.judging.extract import extract_code
from evaluation.lessons.config import MAX_EXAMPLES, LessonsConfig
from evaluation.problems.benchmarks import BenchmarkProblem, mbpp_problems, mbpp_stops

FENCE = "```python\n"
"""What documents of a chat template have between the assistant's beginning and the code."""
FENCE_STOPS = (
    *("\n```", "\nassert ", "\nprint(", "\nif __name__"),
    *("\n# Test", "\n# Example"),
)
"""What follows a finished solution in a code block: its end, or tries of it."""
BEFORE_EXAMPLE = "\n\n\n"
_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a model is asked, the same for every problem."""

    template: str
    """`chat`, or the name of a template."""
    fenced: bool
    """Whether the answer is begun with a fence."""
    examples: tuple[Problem, ...]
    """Solved problems that may stand before the one asked; one more than are used, since the one
    asked may be among them."""
    num_examples: int
    stop: tuple[str, ...]
    """Texts that end an answer."""

    @property
    def is_free(self) -> bool:
        """Whether code is looked for in a chat model's answer."""
        return self.template == CHAT and not self.fenced


@dataclass(frozen=True, kw_only=True)
class Question:
    """A problem, how its solutions are judged, and what the model reads."""

    row: Problem
    problem: BenchmarkProblem | None
    """None: it has no tests."""
    prompt_ids: tuple[int, ...]
    head: str = ""
    """What its answers are the body of: of the template `signature` alone."""

    @property
    def is_invented(self) -> bool:
        """Whether a model made the problem, so that nobody knows whether its tests are right."""
        return self.row.problem_id is not None  # of the dataset's, those are passed over

    @property
    def name(self) -> str:
        """What its samples are called by."""
        return f"MBPP/{self.row.task_id}"


def form_of(config: LessonsConfig, tokenizer: Any) -> Form:
    """How the problems of a job are asked.

    Raises: EvaluationError when a chat template is asked for and there is none.
    """
    template = config.template
    if template == "auto":
        template = CHAT if tokenizer.chat_template else "instruction"
    if template == CHAT:
        if not tokenizer.chat_template:
            raise EvaluationError(
                f"{config.teacher} has no chat template. Give another --template, or an Instruct "
                "teacher"
            )
        if config.examples:
            raise EvaluationError(
                "examples stand before the problems of a base model; a chat template has no place "
                "for them. Leave --examples out, or give --template instruction"
            )
        fenced = config.answer == "fence"
        return Form(
            template=CHAT,
            fenced=fenced,
            examples=(),
            num_examples=0,
            stop=(*(FENCE_STOPS if fenced else ()), *config.stops),
        )
    if config.answer == "free":
        raise EvaluationError(
            f"answer is free, which belongs to a chat template, and {config.teacher} is asked by "
            f"{template!r}: what it writes there is the code. Leave --answer out"
        )
    count = config.examples
    if count is None:
        count = MAX_EXAMPLES if config.writer is None else 0
    return Form(
        template=template,
        fenced=False,
        examples=tuple(_examples(config)[: count + 1]) if count else (),
        num_examples=count,
        stop=(*mbpp_stops(template), *config.stops),
    )


def _examples(config: LessonsConfig) -> list[Problem]:
    """Those that MBPP keeps for prompts, or the first that are written for."""
    return read_problems(config.dataset, "prompt") or load_problems(
        config.dataset, config.splits[0]
    )


def read_rows(config: LessonsConfig) -> list[Problem]:
    """The problems to write for; what models wrote for them before is passed over.

    Raises: EvaluationError when there is none, or when one has no tests and only what passes or
        fails is to be kept.
    """
    rows: list[Problem] = []
    for split in config.splits:
        found = [p for p in load_problems(config.dataset, split) if p.problem_id is None]
        rows += found[: config.limit]
    if not rows:
        raise EvaluationError(
            f"{config.dataset} holds further solutions alone, and no problem of its own. Name the "
            "problems that they are of"
        )
    untested = [row.task_id for row in rows if not row.test_list]
    if untested and config.keep != "all":
        raise EvaluationError(
            f"{len(untested)} of {len(rows)} problems of {config.dataset} have no tests, such as "
            f"task_id {untested[0]}: nothing can tell whether a solution is right. Give them "
            "tests, leave them out, or keep whatever is written with --keep all"
        )
    return rows


def questions_of(
    rows: Sequence[Problem], form: Form, tokenizer: Any
) -> tuple[list[Question], dict[int, str]]:
    """What the model is asked, and the problems that cannot be, with the reason, by task_id."""
    questions: list[Question] = []
    skipped: dict[int, str] = {}
    for row in rows:
        try:
            problem = _judged(row)
            prompt_ids = _prompt_ids(row, form, tokenizer)
            head = signature_head(row) if opening_of(form.template) else ""
        except (CacheError, EvaluationError) as error:
            skipped[row.task_id] = str(error).removeprefix(f"MBPP/{row.task_id}: ")
            continue
        questions.append(Question(row=row, problem=problem, prompt_ids=prompt_ids, head=head))
    return questions, skipped


def _judged(row: Problem) -> BenchmarkProblem | None:
    if not row.test_list:
        return None
    problems, skipped = mbpp_problems([row], "instruction")
    if skipped:
        raise EvaluationError(skipped[0])
    return problems[0]


def _prompt_ids(row: Problem, form: Form, tokenizer: Any) -> tuple[int, ...]:
    if form.template == CHAT:
        messages = chat_messages(row)
        chat_document(  # raises what keeps its solutions from becoming documents
            Conversation(task_id=row.task_id, messages=messages), tokenizer, parse_special=False
        )
        text = render(tokenizer, messages[:1], asking=True) + (FENCE if form.fenced else "")
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    solved = [example for example in form.examples if example.task_id != row.task_id]
    pairs = [TEMPLATES[form.template](example) for example in solved[: form.num_examples]]
    before = "".join(f"{prompt}{code.rstrip()}{BEFORE_EXAMPLE}" for prompt, code in pairs)
    prompt = before + TEMPLATES[form.template](row)[0]
    return encode_opening(tokenizer, prompt, opening_of(form.template))[0]


def code_of(text: str, form: Form, question: Question) -> str:
    """The code in an answer, with `\\n` line ends, without blank lines around it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if form.is_free or ("```" in text and not question.head):
        entry_point = question.problem.entry_point if question.problem else ""
        text, _ = extract_code(text, entry_point, "")
    code = _BLANK_LINES.sub("", text).rstrip()
    return f"{question.head}\n{code}" if question.head else code
