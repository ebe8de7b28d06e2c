"""New problems, made after a dataset's own: a text and asserts with literal values.

Nothing knows whether an invented test is right. So a problem counts only if two solutions that
are no near copies pass all of its asserts (`choose`). What a model wrote is no code for the
judge: of an assert only `name(literals) == literal` is taken, and written anew.

Source: Wang et al. 2023 (Self-Instruct), section 2; agreement as in Chen et al. 2023 (CodeT).
"""

import ast
import builtins
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cache.data.chat import render
from cache.data.problems import DEFAULT_DATASET, Problem, load_problems, read_problems
from cache.data.templates import CHAT
from cache.errors import CacheError
from cache.machine.durable import write_sealed_json
from evaluation.errors import EvaluationError
from evaluation.generation.completions import draw_each
from evaluation.generation.generate import Request
from evaluation.generation.tokens import encode_prompt
from evaluation.lessons.job import Job
from evaluation.lessons.near_copies import squeezed
from evaluation.lessons.parts import read_kept
from evaluation.lessons.rows import lesson_id
from evaluation.problems.benchmarks import BenchmarkProblem, load_benchmark
from evaluation.problems.contamination import find_overlaps, split_words

NUM_SEEDS = 3
"""Problems that one is made after."""
NUM_TESTS = (2, 3)
"""Asserts of an invented problem, fewest and most."""
MAX_TEXT = 600
MAX_ASSERT = 300
STOPS = ("\nResponse:", "\nInstruction:", "\nSolution", "\n```", "\n\n\n", "\ndef ", "<file_sep>")
FILE = "inventions.json"
ASK = (
    "Here are problems for programmers, each with its tests:\n\n{seeds}\n\nInvent another problem "
    "in the same form: what to write in one sentence, and three tests of one new function, each "
    "an assert that compares a call with a literal value."
)


@dataclass(frozen=True, kw_only=True)
class Inventions:
    """What a model invented."""

    texts: tuple[str, ...]
    """As it wrote them, by number."""
    tokens: int
    """Generated."""
    seconds: float
    """Spent on that."""


@dataclass(frozen=True, kw_only=True)
class Sifted:
    """What of it are problems."""

    rows: tuple[Problem, ...]
    """Without a solution; `problem_id` is that of the first seed, which decides the split."""
    left_out: dict[str, int]
    """How many were not taken, by reason."""


def draw_inventions(job: Job, load: Callable[[], tuple[Any, Any]]) -> Inventions:
    """Have the model invent, and keep it; what is kept is not drawn again.

    Raises: EvaluationError when memory or disk do not suffice.
    """
    path = job.config.work / FILE
    content = read_kept(path)
    if content is not None:
        return Inventions(**{**content, "texts": tuple(content["texts"])})
    model, tokenizer = load()
    requests = [
        Request(task_id="invention", sample=number, prompt_ids=_prompt_ids(job, number), stop=STOPS)
        for number in range(job.config.invent)
    ]
    texts = [""] * len(requests)
    tokens, seconds = 0, time.monotonic()
    for place, completion in draw_each(
        model, tokenizer, requests, job.config.sampling, job.config.batch_size
    ):
        texts[place] = completion.text
        tokens += completion.num_tokens
    found = Inventions(texts=tuple(texts), tokens=tokens, seconds=time.monotonic() - seconds)
    write_sealed_json(path, asdict(found), EvaluationError)
    return found


def sift(job: Job, inventions: Inventions) -> Sifted:
    """Those that can be read, are new, and stand in no benchmark.

    Raises: EvaluationError when the benchmarks to compare with cannot be read.
    """
    seeds = {row.task_id: row for row in job.rows}
    known = {_key(row.text) for row in seeds.values()}
    known |= {squeezed(test) for row in seeds.values() for test in row.test_list}
    left_out: Counter[str] = Counter()
    found: list[Problem] = []
    for number, text in enumerate(inventions.texts):
        read = read_invention(text)
        if isinstance(read, str):
            left_out[read] += 1
            continue
        sentence, tests = read
        if _key(sentence) in known or any(squeezed(test) in known for test in tests):
            left_out["a copy of another problem"] += 1
            continue
        known |= {_key(sentence), *map(squeezed, tests)}
        seed = _seeds(job.rows, job.config.seed, number)[0]
        found.append(
            Problem(
                task_id=lesson_id(seed.task_id, sentence, "\n".join(tests)),
                text=sentence,
                code="",
                test_list=tests,
                problem_id=seed.task_id,
                origin=job.config.origin,
            )
        )
    clean = _uncontaminated(job, found)
    left_out["contaminated"] += len(found) - len(clean)
    return Sifted(rows=tuple(clean), left_out={k: n for k, n in left_out.items() if n})


def read_invention(text: str) -> tuple[str, tuple[str, ...]] | str:
    """An invented problem's sentence and its asserts, written anew; or why there is none."""
    sentence, found, rest = text.partition("Test list:")
    sentence = " ".join(sentence.split())
    if not found or not sentence or len(sentence) > MAX_TEXT:
        return "not in the form asked for"
    tests: list[str] = []
    names: set[str] = set()
    values: set[str] = set()
    for line in rest.split("\n"):
        if line.strip().startswith("assert ") and len(tests) < NUM_TESTS[1]:
            read = _read_assert(line.strip())
            if read is None:
                return "tests of other than literal values"
            name, value, test = read
            names.add(name)
            values.add(value)
            tests.append(test)
    if len(set(tests)) < NUM_TESTS[0]:
        return "too few tests"
    if len(names) > 1 or hasattr(builtins, min(names)):
        return "tests of other than one new function"
    if len(values) == 1:
        return "tests that expect one value"
    return sentence, tuple(dict.fromkeys(tests))


def _read_assert(line: str) -> tuple[str, str, str] | None:
    """Function, expected value and source of `assert name(literals) == literal`."""
    if len(line) > MAX_ASSERT:  # nothing that Python's parser might not bear
        return None
    try:
        (statement,) = ast.parse(line).body
        match statement:
            case ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[value],
                )
            ):
                for node in (*arguments, value):
                    ast.literal_eval(node)
                words = ", ".join(map(ast.unparse, arguments))
                return name, ast.unparse(value), f"assert {name}({words}) == {ast.unparse(value)}"
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return None


def _prompt_ids(job: Job, number: int) -> tuple[int, ...]:
    seeds = [_in_form(seed) for seed in _seeds(job.rows, job.config.seed, number)]
    if job.form.template != CHAT:
        return encode_prompt(job.tokenizer, "\n\n\n".join([*seeds, "Instruction:\n"]))
    asked = {"role": "user", "content": ASK.format(seeds="\n\n\n".join(seeds))}
    text = render(job.tokenizer, [asked], asking=True) + "Instruction:\n"
    return tuple(job.tokenizer(text, add_special_tokens=False)["input_ids"])


def _in_form(row: Problem) -> str:
    tests = "\n".join(row.test_list[: NUM_TESTS[1]])
    return f"Instruction:\n{row.text}\n\nTest list:\n{tests}"


def _seeds(rows: Sequence[Problem], seed: int, number: int) -> list[Problem]:
    """Some problems that the number of an invention decides."""

    def draw(row: Problem) -> str:
        return hashlib.sha256(f"{seed}|{number}|{row.task_id}".encode()).hexdigest()

    return sorted(rows, key=draw)[:NUM_SEEDS]


def _key(text: str) -> str:
    return " ".join(split_words(text))


def _uncontaminated(job: Job, rows: Sequence[Problem]) -> list[Problem]:
    """Rows that share no 13 words in a row, no text and no assert with HumanEval or MBPP's test."""
    try:
        scored = read_problems(job.config.dataset, "test") or load_problems(DEFAULT_DATASET, "test")
        humaneval = load_benchmark("humaneval").problems
    except CacheError as error:
        raise EvaluationError(
            "invented problems are compared with HumanEval and MBPP's test split before they are "
            f"kept, and that cannot be read: {error}"
        ) from error
    texts = {_key(row.text) for row in scored}
    tests = {squeezed(test) for row in scored for test in row.test_list}
    documents = [f"{problem.prompt}\n{problem.canonical_solution}" for problem in humaneval]
    documents += ["\n".join([row.text, *row.test_list, row.code]) for row in scored]
    shared, _ = find_overlaps([_as_document(row) for row in rows], documents)
    return [
        row
        for row in rows
        if str(row.task_id) not in shared
        and _key(row.text) not in texts
        and not any(squeezed(test) in tests for test in row.test_list)
    ]


def _as_document(row: Problem) -> BenchmarkProblem:
    return BenchmarkProblem(
        task_id=str(row.task_id),
        prompt="\n".join([row.text, *row.test_list]),
        entry_point="",
        preamble="",
        test="",
        canonical_solution="",
        stop=(),
    )
