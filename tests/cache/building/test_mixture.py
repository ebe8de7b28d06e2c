"""Several datasets of problems in one cache, by weights."""

import json
from dataclasses import replace

import pytest

from cache.building.config import BuildConfig
from cache.building.local import build_cache
from cache.building.mixture import Mixture, load_mixture
from cache.errors import CacheError
from cache.reading.reader import CacheReader
from cache.storage.created import ORIGINS, merged_created, origins_of
from cache.storage.manifest import Manifest
from cache.targets.format import TargetFormat
from cache.tools.extend import extend_cache
from cache.tools.merge import merge_caches
from cache.tools.verify import verify_cache
from tests.support.command_line import run
from tests.support.paths import EXAMPLES

MASS = TargetFormat(top_k=8, tail="mass")


def row(task_id, **more):
    code = f"def f{task_id}():\n    return {task_id}"
    tests = [f"assert f{task_id}() == {task_id}"]
    return {"task_id": task_id, "text": "Say it.", "code": code, "test_list": tests, **more}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Twelve problems, of which ten are to train on, and forty solutions of these."""
    gold = [row(n) for n in (*range(601, 611), 589, 590)]
    lessons = [
        row(n * 1000 + k, problem_id=n, origin="teacher") for n in range(601, 611) for k in range(4)
    ]
    folder = tmp_path_factory.mktemp("sources")
    paths = (folder / "gold.jsonl", folder / "lessons.jsonl")
    for path, rows in zip(paths, (gold, lessons), strict=True):
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return tuple(map(str, paths))


def counts(sources, weights, split="train", limit=None):
    mixture = Mixture(sources=sources, weights=weights)
    found = load_mixture(mixture, split, limit)
    assert len({problem.task_id for problem in found}) == len(found)
    return [sum(p.origin == origin for p in found) for origin in ("gold", "teacher")]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((), [10, 40]),
        ((1, 1), [10, 10]),
        ((1, 4), [10, 40]),
        ((1, 8), [5, 40]),
        ((0.1, 0.3), [10, 30]),
        ((0, 1), [0, 40]),
        ((2, 0), [10, 0]),
    ],
)
def test_weights_are_shares_and_no_solution_is_taken_twice(sources, weights, expected):
    assert counts(sources, weights) == expected


@pytest.mark.parametrize("weights", [(), (0, 1), (1, 3)])
def test_what_is_not_trained_on_is_taken_whole(sources, weights):
    assert counts(sources, weights, "validation") == [2, 0]


def test_the_limit_is_of_each_source(sources):
    assert counts(sources, (), limit=3) == [3, 3]


def test_what_is_left_out_is_not_the_end_of_the_file(sources):
    found = load_mixture(Mixture(sources=sources, weights=(1, 1)), "train")
    lessons = [problem for problem in found if problem.origin == "teacher"]
    assert len({problem.problem_id for problem in lessons}) > 4  # ten first ones are of three
    assert [p.task_id for p in lessons] == sorted(p.task_id for p in lessons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (1.0,)}, "There are 2 datasets and 1 weights"),
        ({"weights": (1.0, -1.0)}, "each must be 0 or more"),
        ({"weights": (float("nan"), 1.0)}, "each must be 0 or more"),
        ({"weights": (0.0, 0.0)}, "All weights are 0"),
        ({"sources": ("a", "a")}, "name each once"),
    ],
)
def test_weights_that_make_no_shares_are_refused(changes, message):
    with pytest.raises(CacheError, match=message):
        Mixture(**{"sources": ("a", "b"), **changes})


def test_a_number_that_stands_in_two_sources_is_refused(sources, tmp_path):
    copy = tmp_path / "copy.jsonl"
    copy.write_text(json.dumps(row(603)) + "\n")
    with pytest.raises(CacheError, match="task_id 603 stands in .*gold.jsonl and in .*copy.jsonl"):
        load_mixture(Mixture(sources=(sources[0], str(copy))), "train")


def test_a_split_that_no_source_has_is_refused(sources):
    with pytest.raises(CacheError, match="no problems in split 'test'"):
        load_mixture(Mixture(sources=sources), "test")


@pytest.fixture(scope="module")
def mixed(sources, tmp_path_factory, tiny_teacher):
    """A cache of both, and its configuration."""
    config = BuildConfig(
        out=tmp_path_factory.mktemp("mixed") / "c", teacher=str(tiny_teacher), targets=MASS,
        shard_tokens=200,
        mixture=Mixture(sources=sources, weights=(1, 1)),
    )  # fmt: skip
    return build_cache(config).manifest, config


def test_a_cache_knows_who_wrote_each_document(mixed, sources):
    manifest, config = mixed
    assert origins_of(manifest) == {
        "train": ["gold"] * 10 + ["teacher"] * 10, "validation": ["gold"] * 2,
    }  # fmt: skip
    assert manifest.identity.dataset == f"0.5 {sources[0]} + 0.5 {sources[1]}"
    assert verify_cache(config.out) == []
    with CacheReader(config.out) as reader:
        task_ids = [
            task_id
            for index in range(20)
            for task_id in reader.read("train", [index]).task_ids.tolist()
        ]
    assert [task_id > 1000 for task_id in task_ids] == [False] * 10 + [True] * 10
    assert build_cache(config).already_complete
    code, output = run("cache", "inspect", config.out)
    assert code == 0 and "train: 10 gold, 10 teacher; validation: 2 gold" in output


def test_caches_that_are_joined_or_extended_keep_who_wrote_what(mixed, tmp_path, tiny_teacher):
    _, config = mixed
    gold = BuildConfig(
        out=tmp_path / "gold", teacher=str(tiny_teacher), targets=MASS, dataset=str(EXAMPLES),
        splits=("validation",), limit=3,
    )  # fmt: skip
    assert ORIGINS not in build_cache(gold).manifest.created
    merged = merge_caches(tmp_path / "merged", [gold.out, config.out])
    there = {"train": ["gold"] * 10 + ["teacher"] * 10, "validation": ["gold"] * 5}
    assert origins_of(merged) == there
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps(row(99_999, problem_id=601, origin="student")) + "\n")
    extend_cache(tmp_path / "merged", splits=("train",), dataset=str(more))
    extended = Manifest.read(tmp_path / "merged")
    assert origins_of(extended) == {**there, "train": [*there["train"], "student"]}
    assert merged_created([extended])[ORIGINS]["train"][-1] == ["student", 1]


@pytest.mark.parametrize(
    "origins",
    [["train"], {"train": 1}, {"train": [["gold", -1]]}, {"train": [[1, 1]]}, {"train": [["a"]]}],
)
def test_damaged_origins_are_refused(mixed, tmp_path, origins):
    manifest, _ = mixed
    replace(manifest, created={**manifest.created, ORIGINS: origins}).write(tmp_path)
    with pytest.raises(CacheError):
        Manifest.read(tmp_path)


def test_a_cache_is_extended_by_one_dataset(mixed, sources):
    _, config = mixed
    code, output = run(
        "cache", "extend", config.out, "--split", "train", "--dataset", sources[0],
        "--dataset", sources[1],
    )  # fmt: skip
    assert code == 1 and "by one dataset of problems at a time" in output
