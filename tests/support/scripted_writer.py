"""A teacher whose answers are written down: everything but its model is real."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluation.config import SandboxLimits
from evaluation.generation.completion_rows import Completion
from evaluation.lessons import invent, parts, write
from evaluation.lessons.config import LessonsConfig

PROBLEMS = (
    {
        "task_id": 601,
        "text": "Write a function to add one to a number.",
        "code": "def add_one(x):\r\n    return x + 1",
        "test_list": ["assert add_one(1) == 2", "assert add_one(-1) == 0"],
    },
    {
        "task_id": 602,
        "text": "Write a function to join two texts.",
        "code": "def join(a, b):\n    return a + b",
        "test_list": ["assert join('a', 'b') == 'ab'", "assert join('', 'c') == 'c'"],
    },
    {
        "task_id": 603,
        "text": "Write a function to find the largest of a list.",
        "code": "def largest(values):\n    return max(values)",
        "test_list": ["assert largest([1, 3, 2]) == 3", "assert largest([-2, -5]) == -2"],
    },
)
"""Three of the training split."""
GOLD = {f"MBPP/{row['task_id']}": str(row["code"]).replace("\r\n", "\n") for row in PROBLEMS}
Answer = Callable[[str, int], str]
"""What is written for a problem's sample of that number."""


def save_problems(path: Path, rows: Sequence[dict[str, Any]] = PROBLEMS) -> Path:
    """A JSON-lines file of problems."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lessons_config(folder: Path, teacher: Path, **options: Any) -> LessonsConfig:
    """A small job in a folder: parts of one problem each."""
    problems = folder / "problems.jsonl"
    if not problems.exists():
        save_problems(problems)
    defaults: dict[str, Any] = {
        "out": folder / "lessons.jsonl", "teacher": str(teacher), "dataset": str(problems),
        "samples": 4, "batch_size": 1, "self_check": False, "workers": 2,
        "timeout": SandboxLimits.timeout,
    }  # fmt: skip
    return LessonsConfig(**{**defaults, **options})


def script(monkeypatch, answer: Answer) -> list[str]:
    """Answers in place of a model's; the names of the samples that were drawn, as they are."""
    drawn: list[str] = []

    def draw_each(model, tokenizer, requests, settings, batch_size):
        for place, request in enumerate(requests):
            text = answer(request.task_id, request.sample)
            drawn.append(f"{request.task_id}:{request.sample}")
            yield place, Completion(text=text, raw=text, finish="eos", num_tokens=7)

    for module in (parts, invent):
        monkeypatch.setattr(module, "draw_each", draw_each)
    monkeypatch.setattr(write, "load_model", lambda *_: (None, None))
    return drawn


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
