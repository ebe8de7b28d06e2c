import gzip
import json

import pytest
from click.testing import CliRunner

import cli
from evaluation.config import ScoreConfig
from evaluation.errors import EvaluationError
from evaluation.judging.score import score_samples
from evaluation.metrics.intervals import wilson_interval
from evaluation.problems.benchmarks import load_benchmark

HUMANEVAL = load_benchmark("humaneval").problems[:2]
RIGHT, WRONG = HUMANEVAL
MIXED = [
    (RIGHT.task_id, RIGHT.canonical_solution),
    (RIGHT.task_id, "    pass\n"),
    (WRONG.task_id, "    pass\n"),
    (WRONG.task_id, "    return undefined_name\n"),
]


def write(path, completions, **fields):
    lines = [
        json.dumps({"task_id": task_id, "completion": text, **fields}) + "\n"
        for task_id, text in completions
    ]
    (gzip.open if path.suffix == ".gz" else open)(path, "wt").write("".join(lines))
    return path


def score(path, **fields):
    return score_samples(ScoreConfig(samples=path, partial=True, timeout=10, **fields))


def test_score_and_verdicts_are_written_beside_the_samples(tmp_path):
    result = score(write(tmp_path / "samples.jsonl", MIXED), ks=(1, 2))
    assert result.pass_at == {"1": 0.25, "2": 0.5}
    assert result.outcomes["passed"] == 1 and result.outcomes["exception:NameError"] == 1
    assert result.samples_per_problem == (2, 2)
    assert result.signature.startswith("humaneval|problems:2|timeout:10s|memory:1024MiB|sandbox:")
    verdicts = [json.loads(line) for line in (tmp_path / "samples.results.jsonl").open()]
    assert [verdict["passed"] for verdict in verdicts] == [True, False, False, False]
    saved = json.loads((tmp_path / "samples.score.json").read_text())
    assert saved["pass_at"] == result.pass_at and saved["config"]["partial"] is True


def test_one_sample_a_problem_gets_wilsons_interval(tmp_path):
    one = [(RIGHT.task_id, RIGHT.canonical_solution), (WRONG.task_id, WRONG.canonical_solution)]
    result = score(write(tmp_path / "greedy.jsonl", one), self_check=False)
    assert result.pass_at == {"1": 1.0}
    assert result.intervals == {"1": wilson_interval(2, 2)}


def test_usual_ks_are_those_that_the_samples_reach(tmp_path):
    path = write(tmp_path / "ten.jsonl", [(RIGHT.task_id, "    pass\n")] * 10)
    assert list(score(path, self_check=False).pass_at) == ["1", "10"]


def test_compressed_samples_are_read_and_token_limits_counted(tmp_path):
    path = write(tmp_path / "samples.jsonl.gz", MIXED, finish="length")
    assert score(path, self_check=False).failed_at_token_limit == 3
    assert (tmp_path / "samples.results.jsonl").is_file()
    assert (tmp_path / "samples.score.json").is_file()


def test_samples_of_problems_left_out_are_not_scored(tmp_path):
    rows = [
        {
            "task_id": 404,
            "text": "Write a function to find the minimum of two numbers.",
            "code": "def minimum(a, b):\n    return min(a, b)",
            "test_setup_code": "",
            "test_list": [
                "assert minimum(1,2) == 1",
                "assert minimum(-5,-4) == -5",
                "assert minimum(0,0) == 0",
            ],
        },
        {
            "task_id": 405,
            "text": "Write a function to add two numbers.",
            "code": "def add(a, b):\n    return a + b",
            "test_setup_code": "",
            "test_list": ["assert add(1, 2) == 3"],
        },
    ]
    dataset = tmp_path / "mbpp.jsonl"
    dataset.write_text(
        "".join(json.dumps({**row, "challenge_test_list": []}) + "\n" for row in rows)
    )
    first = ("MBPP/404", rows[0]["code"])
    path = write(tmp_path / "samples.jsonl", [first, ("MBPP/405", rows[1]["code"])])
    result = score(path, benchmark=str(dataset))
    assert (result.num_problems, result.num_samples, result.pass_at) == (1, 1, {"1": 1.0})
    assert result.notes[0].startswith("Skipped MBPP/404: its tests are passed by")
    with pytest.raises(EvaluationError, match="samples of skipped problems alone: MBPP/404"):
        score(write(tmp_path / "alone.jsonl", [first]), benchmark=str(dataset))


def test_benchmark_that_fails_its_self_check_gets_no_score(tmp_path):
    row = {
        "task_id": "T/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 2\n",
    }
    (tmp_path / "benchmark.jsonl").write_text(json.dumps(row) + "\n")
    path = write(tmp_path / "samples.jsonl", [("T/0", "    return 2\n")])
    with pytest.raises(EvaluationError, match="1 canonical solutions do not pass: T/0"):
        score(path, benchmark=str(tmp_path / "benchmark.jsonl"))
    assert not (tmp_path / "samples.score.json").exists()


def test_incomplete_and_foreign_sample_files_are_refused(tmp_path):
    few = write(tmp_path / "few.jsonl", [(RIGHT.task_id, "    pass\n")])
    with pytest.raises(EvaluationError, match="samples of 1 of the 164 problems.*--partial"):
        score_samples(ScoreConfig(samples=few))
    foreign = write(tmp_path / "foreign.jsonl", [("MBPP/11", "pass\n")])
    with pytest.raises(EvaluationError, match="that humaneval does not have, such as MBPP/11"):
        score_samples(ScoreConfig(samples=foreign))


def test_k_above_the_fewest_samples_is_refused(tmp_path):
    path = write(tmp_path / "uneven.jsonl", MIXED[:3])
    with pytest.raises(EvaluationError, match="pass@2 needs at least 2.*has as few as 1"):
        score(path, ks=(1, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": "samples.csv"}, "samples.csv is no JSON file by its name; need"),
        ({"ks": (0,)}, "k is 0; it must be at least 1"),
        ({"workers": 0}, "workers is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"memory_mb": 1}, "memory_mb is 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, fields, message):
    samples = tmp_path / fields.pop("samples", "samples.jsonl")
    with pytest.raises(EvaluationError, match=message):
        ScoreConfig(samples=samples, **fields)


def test_command_prints_scores_intervals_and_outcomes(tmp_path):
    path = write(tmp_path / "samples.jsonl", MIXED)
    words = ["score", str(path), "--partial", "--k", "1", "--k", "2", "--timeout", "10"]
    result = CliRunner(env={"COLUMNS": "100"}).invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    for part in ("pass@2", "50.0%", "25.0%", "95 % interval", "exception NameError"):
        assert part in result.output
    assert "4 samples of 2 problems, 2 each" in result.output
    assert f"Score: {tmp_path / 'samples.score.json'}" in result.output


def test_absent_file_is_an_error_of_one_sentence(tmp_path):
    result = CliRunner().invoke(cli.main, ["score", str(tmp_path / "absent.jsonl")])
    assert result.exit_code == 1
    assert "absent.jsonl cannot be read" in result.output and "Traceback" not in result.output


def test_a_completion_is_judged_whatever_its_file_says_of_its_end(tmp_path):
    path = write(tmp_path / "s.jsonl", MIXED[:1], finish="prompt_too_long")
    assert score(path, self_check=False).pass_at == {"1": 1.0}


def test_whole_programs_stand_alone(tmp_path):
    path = tmp_path / "generations.json"
    path.write_text(json.dumps([[RIGHT.preamble + RIGHT.canonical_solution, RIGHT.preamble]]))
    result = score(path, self_check=False)
    assert result.pass_at == {"1": 0.5}
    assert (tmp_path / "generations.results.jsonl").is_file()


def test_extracted_code_is_judged_and_the_signature_says_so(tmp_path):
    whole = f"Sure:\n```python\n{RIGHT.preamble}{RIGHT.canonical_solution}```\nDone."
    path = write(tmp_path / "chat.jsonl", [(RIGHT.task_id, whole)])
    assert score(path, self_check=False).outcomes == {"syntax_error": 1}
    result = score(path, self_check=False, extract="code")
    assert result.pass_at == {"1": 1.0} and "|extract:code|" in result.signature
    (verdict,) = map(json.loads, (tmp_path / "chat.results.jsonl").open())
    assert verdict["raw"] == whole and "Sure" not in verdict["completion"]
    with pytest.raises(EvaluationError, match="extract is 'all'; choose one of"):
        score(path, extract="all")


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_judging(tmp_path, monkeypatch):
    path = write(tmp_path / "s.jsonl", MIXED)

    def refuse(self):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    monkeypatch.setattr("evaluation.judging.score.judge", None)
    with pytest.raises(EvaluationError, match="cannot be written to.*Copy the samples"):
        score(path)
