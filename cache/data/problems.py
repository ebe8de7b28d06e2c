"""Datasets to problems: MBPP from the hub, or a JSON-lines file with MBPP's schema."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.data.text_format import require_unicode
from cache.errors import CacheError
from cache.machine.durable import json_sha256

LONG_DOCUMENTS = ("drop", "truncate")


DEFAULT_DATASET = "google-research-datasets/mbpp"

# MBPP's official splits by task_id, first and last included: Austin et al. 2021, section 2.
SPLIT_TASK_IDS = {
    "prompt": (1, 10),
    "test": (11, 510),
    "validation": (511, 600),
    "train": (601, 974),
}

GOLD = "gold"
ORIGINS = (GOLD, "teacher", "student")
"""Who wrote a solution: the dataset's own, or a model that was asked for one."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One programming problem, in MBPP's schema."""

    task_id: int
    text: str
    code: str
    test_list: tuple[str, ...]
    test_setup_code: str = ""
    challenge_test_list: tuple[str, ...] = ()
    problem_id: int | None = None
    """`task_id` of the problem that this is a further solution of; None: its own."""
    origin: str = GOLD
    """Who wrote the code, one of ORIGINS."""

    @property
    def split_id(self) -> int:
        """What decides the split: further solutions are where their problem is."""
        return self.task_id if self.problem_id is None else self.problem_id


def load_problems(dataset: str, split: str) -> list[Problem]:
    """Problems of one split, in the order of the source, with `\\n` line ends.

    Args:
        dataset: a hub id with MBPP's columns, or the path of a JSON-lines file. A local file is
            split by the official `task_id` ranges; of a row with a `problem_id`, that is what
            counts.
        split: `train`, `validation`, `test` or `prompt`.

    Raises:
        CacheError: the split is unknown, the source cannot be read, a line is malformed, a
            `task_id` stands twice, or the split is empty.
    """
    problems = read_problems(dataset, split)
    require_problems(problems, dataset, split)
    return problems


def read_problems(dataset: str, split: str) -> list[Problem]:
    """As `load_problems`, but there may be none.

    Raises:
        CacheError: the split is unknown, the source cannot be read, a line is malformed, or a
            `task_id` stands twice.
    """
    if split not in SPLIT_TASK_IDS:
        raise CacheError(
            f"There is no split {split!r}; MBPP has {', '.join(sorted(SPLIT_TASK_IDS))}."
        )
    if _is_local(dataset):
        first, last = SPLIT_TASK_IDS[split]
        problems = [p for p in _read_json_lines(Path(dataset)) if first <= p.split_id <= last]
    else:
        problems = _read_hub(dataset, split)
    _require_unique(problems, dataset)
    return problems


def require_problems(problems: Sequence[Problem], dataset: str, split: str) -> None:
    """Raise CacheError where a split has no problem."""
    if not problems:
        raise CacheError(
            f"{dataset} has no problems in split {split!r} (task_id "
            f"{SPLIT_TASK_IDS[split][0]} to {SPLIT_TASK_IDS[split][1]}).\n"
            "Choose another with --split, or number your problems inside that range."
        )


def _is_local(dataset: str) -> bool:
    path = Path(dataset)
    return path.suffix in {".json", ".jsonl"} or path.is_file()


def _read_json_lines(path: Path) -> list[Problem]:
    if not path.is_file():
        raise CacheError(
            f"There is no file {path}. --dataset takes a hub id such as {DEFAULT_DATASET}, "
            "or an existing JSON-lines file."
        )
    problems = []
    try:
        # JSON may hold other line ends than \n inside of a text; a byte order mark is none of it.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CacheError(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
            raise CacheError(
                f"{path}, line {number} is not JSON that can be read: {error}.\n"
                "Every line must hold one problem as a JSON object; mend or remove the line."
            ) from error
        problems.append(_to_problem(row, f"{path}, line {number}"))
    return problems


def _read_hub(dataset: str, split: str) -> list[Problem]:
    import datasets

    try:
        rows = datasets.load_dataset(dataset, "full", split=split)
    except Exception as error:  # the hub client raises many kinds: network, absent, gated
        raise CacheError(
            f"{dataset} (config 'full', split {split!r}) could not be loaded from the hub: "
            f"{type(error).__name__}: {error}\n"
            "Check the name and the network, or give --dataset a JSON-lines file."
        ) from error
    return [_to_problem(row, f"{dataset}, {split} row {i}") for i, row in enumerate(rows)]


def _to_problem(row: Any, where: str) -> Problem:
    if not isinstance(row, dict):
        raise CacheError(f"{where} is not a JSON object but {type(row).__name__}.")
    for field, kind in (("task_id", int), ("text", str), ("code", str), ("test_list", list)):
        if not isinstance(row.get(field), kind) or isinstance(row[field], bool):
            raise CacheError(
                f"{where}: field {field!r} must be {kind.__name__}, "
                f"found {type(row.get(field)).__name__}. See the schema in examples/README.md."
            )
    problem_id, origin = row.get("problem_id"), row.get("origin") or GOLD
    if problem_id is not None and (not isinstance(problem_id, int) or isinstance(problem_id, bool)):
        raise CacheError(
            f"{where}: field 'problem_id' must be int, found {type(problem_id).__name__}."
        )
    if origin not in ORIGINS:
        raise CacheError(
            f"{where}: field 'origin' is {origin!r}; it is one of {', '.join(ORIGINS)}."
        )
    return Problem(
        task_id=row["task_id"],
        text=_text(row["text"], "text", where),
        code=_text(row["code"], "code", where),
        test_list=_texts(row["test_list"], "test_list", where),
        test_setup_code=_text(row.get("test_setup_code") or "", "test_setup_code", where),
        challenge_test_list=_texts(
            row.get("challenge_test_list") or [], "challenge_test_list", where
        ),
        problem_id=problem_id,
        origin=origin,
    )


def _texts(value: Any, field: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise CacheError(f"{where}: field {field!r} must be list, found {type(value).__name__}.")
    return tuple(_text(text, field, where) for text in value)


def _text(value: Any, field: str, where: str) -> str:
    """A text with `\\n` line ends."""
    if not isinstance(value, str):
        raise CacheError(f"{where}: {field!r} holds {type(value).__name__} instead of text.")
    try:
        require_unicode(value)
    except CacheError as error:
        raise CacheError(f"{where}, field {field!r}: {error}. Mend or remove the line.") from error
    return value.replace("\r\n", "\n").replace("\r", "\n")


def _require_unique(problems: list[Problem], dataset: str) -> None:
    seen: set[int] = set()
    for problem in problems:
        if problem.task_id in seen:
            raise CacheError(f"{dataset} holds task_id {problem.task_id} twice; remove one.")
        seen.add(problem.task_id)


def dataset_sha256(problems: Sequence[Problem]) -> str:
    """Hash of the problems' content and order."""
    return json_sha256([_content(problem) for problem in problems])


def _content(problem: Problem) -> dict[str, Any]:
    """Its fields; those that tell a further solution from a problem only where they say one."""
    content = asdict(problem)
    for name, default in (("problem_id", None), ("origin", GOLD)):
        if content[name] == default:
            del content[name]
    return content
