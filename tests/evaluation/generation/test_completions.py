import json
from dataclasses import replace

import pytest
import torch

from evaluation.errors import EvaluationError
from evaluation.generation import completions
from evaluation.generation.completions import complete_all, recover_samples
from evaluation.problems.benchmarks import BenchmarkProblem
from tests.support.tiny_models import byte_tokenizer, settings, tiny_gpt2

PROBLEMS = [
    BenchmarkProblem(
        task_id=f"T/{i}",
        prompt=prompt,
        entry_point="f",
        preamble=prompt,
        test="",
        canonical_solution="",
        stop=("\ndef",),
    )
    for i, prompt in enumerate(("def f(x):\n", "def g(long, list):\n", "x"))
]
SETTINGS = replace(settings(0.8, tokens=6), samples=2)


def complete(path, *, problems=PROBLEMS, used=SETTINGS, identity="weights", on_done=None):
    return complete_all(
        lambda: (tiny_gpt2(), byte_tokenizer()),
        problems,
        used,
        identity=identity,
        batch_size=2,
        path=path,
        on_done=on_done or (lambda count: None),
    )


@pytest.fixture
def generated(monkeypatch):
    """The (task, sample) pairs really generated."""
    seen = []
    original = completions.generate_each

    def watched(model, tokenizer, requests, used, **options):
        for place, completion in original(model, tokenizer, requests, used, **options):
            seen.append((requests[place].task_id, requests[place].sample))
            yield place, completion

    monkeypatch.setattr(completions, "generate_each", watched)
    return seen


def test_lines_are_in_human_eval_format(tmp_path):
    samples = complete(tmp_path / "samples.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert len(lines) == len(samples) == 6
    assert {"task_id", "completion", "sample", "finish"} <= set(lines[0])
    assert all(line["raw"].startswith(line["completion"]) for line in lines)
    assert [(s.task_id, s.sample) for s in samples] == [
        (f"T/{i}", n) for i in range(3) for n in range(2)
    ]


def test_killed_run_goes_on_to_the_same_samples(tmp_path, generated):
    whole = complete(tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    calls = []

    def interrupt_after_two(count):
        calls.append(count)
        if sum(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(path, on_done=interrupt_after_two)
    assert len(recover_samples(path)) == 2
    with path.open("a") as file:
        file.write('{"task_id": "T/0", "comple')
    generated.clear()
    assert complete(path) == whole
    assert len(generated) == 4
    assert len(recover_samples(path)) == 6


def test_finished_samples_are_not_drawn_again(tmp_path, generated):
    first = complete(tmp_path / "samples.jsonl")
    generated.clear()
    assert complete(tmp_path / "samples.jsonl") == first
    assert generated == []


def test_no_model_is_loaded_where_no_sample_is_missing(tmp_path):
    path = tmp_path / "samples.jsonl"
    first = complete(path)

    def load():
        raise AssertionError("loaded")

    again = complete_all(load, PROBLEMS, SETTINGS, identity="weights", batch_size=2, path=path)
    assert again == first


def test_more_samples_keep_those_already_drawn(tmp_path, generated):
    complete(tmp_path / "samples.jsonl")
    generated.clear()
    samples = complete(tmp_path / "samples.jsonl", used=replace(SETTINGS, samples=3))
    assert len(samples) == 9
    assert sorted(generated) == [(f"T/{i}", 2) for i in range(3)]


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "other weights"},
        {"used": replace(SETTINGS, temperature=0.5)},
        {"used": replace(SETTINGS, temperature=0.8000001)},
        {"used": replace(SETTINGS, top_p=0.5)},
        {"used": replace(SETTINGS, seed=1)},
        {"used": replace(SETTINGS, max_new_tokens=7)},
        {"problems": [replace(problem, prompt="y") for problem in PROBLEMS]},
        {"problems": [replace(problem, stop=("\nclass",)) for problem in PROBLEMS]},
        {"problems": [replace(problem, task_id=f"U/{i}") for i, problem in enumerate(PROBLEMS)]},
    ],
)
def test_samples_of_other_conditions_are_not_reused(tmp_path, generated, changes):
    complete(tmp_path / "samples.jsonl")
    generated.clear()
    complete(tmp_path / "samples.jsonl", **changes)
    assert len(generated) == 6


def test_batch_too_large_for_the_device_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(completions, "generate_each", fail)
    with pytest.raises(EvaluationError, match="batch of 2 completions.*Lower batch_size"):
        complete(tmp_path / "samples.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 1 is not JSON"), ('{"task_id": "a"}', "line 1 is no sample of this version")],
)
def test_damaged_line_that_is_not_the_last_is_named(tmp_path, line, message):
    path = tmp_path / "samples.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(EvaluationError, match=message):
        recover_samples(path)
