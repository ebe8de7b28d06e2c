import csv
import json
from dataclasses import replace

import pytest

from cache.data.problems import load_problems
from cache.machine.lock import writer_lock
from evaluation.benchmark import run_benchmark
from evaluation.comparison import measure
from evaluation.config import BenchmarkConfig
from evaluation.errors import EvaluationError
from evaluation.problems.benchmarks import load_benchmark
from tests.support.paths import EXAMPLES
from tests.support.tiny_models import save_tiny

HUMANEVAL = load_benchmark("humaneval").problems


@pytest.fixture
def config(tmp_path):
    return BenchmarkConfig(
        checkpoints=(save_tiny(tmp_path / "student", 1, positions=1024, width=16),),
        teacher=str(save_tiny(tmp_path / "teacher", 0, positions=1024)),
        limit=2,
        samples=2,
        ks=(1, 2),
        temperature=0.8,
        max_new_tokens=8,
        batch_size=2,
        latency_prompts=2,
        latency_tokens=4,
        latency_prompt_tokens=32,
        latency_warmup=1,
        workers=2,
        device="cpu",
        out=tmp_path / "out",
    )


@pytest.fixture
def loaded(monkeypatch):
    """Labels of the models really loaded."""
    seen = []
    original = measure.load_model

    def watched(source, dtype, device):
        seen.append(source.label)
        return original(source, dtype, device)

    monkeypatch.setattr(measure, "load_model", watched)
    return seen


def test_whole_comparison_of_two_models(config, loaded):
    result = run_benchmark(config)
    teacher, student = result.rows
    assert (teacher.label, student.label) == ("teacher", "student")
    assert teacher.is_teacher and not student.is_teacher
    assert teacher.speedup == teacher.compression == teacher.parameter_ratio == 1
    assert student.compression == teacher.size_bytes / student.size_bytes > 1
    assert student.parameter_ratio == teacher.parameters / student.parameters > 1
    assert student.speedup == teacher.latency.median_ms / student.latency.median_ms
    assert set(student.pass_at) == {"1", "2"}
    assert sum(student.greedy_outcomes.values()) == 2
    assert sum(student.sampled_outcomes.values()) == 4
    assert sum(student.finishes.values()) == 6
    assert result.complete and result.num_problems == 2
    names = {path.name for path in config.out.iterdir()}
    assert {"results.json", "results.csv", "results.md", "report.html"} < names
    charts = ("quality-vs-parameters.svg", "quality-vs-latency.svg", "quality-vs-size.svg")
    assert set(charts) < names
    with (config.out / "results.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["teacher", "student"]
    saved = json.loads((config.out / "results.json").read_text())
    assert saved["config"]["max_new_tokens"] == 8
    assert "n:2|temp:0.8|top_p:0.95|seed:0|tokens:8|timeout:3s" in saved["signatures"]["sampled"]
    assert saved["signatures"]["greedy"].startswith("humaneval|problems:2|prompt:natural|n:1|")
    assert "sandbox:" in saved["signatures"]["greedy"]
    assert saved["device"].startswith("cpu") and saved["dtype"] == "float32"
    assert {"torch", "transformers", "sacrebleu"} <= set(saved["versions"])


def test_agreement_is_measured_where_a_cache_is_given(config, tiny_cache, tiny_teacher):
    config = replace(
        config,
        teacher=str(tiny_teacher),
        cache=tiny_cache,
        agreement_documents=2,
        samples=0,
        self_check=False,
    )
    teacher, student = run_benchmark(config).rows
    assert teacher.agreement.num_documents == 2 and teacher.agreement.whole.top1 == 1
    assert student.agreement is None
    assert student.no_agreement == "its vocabulary has 257 tokens and the cache's 384"
    report = (config.out / "results.md").read_text()
    assert "## Agreement with the teacher" in report and "- agreement: `reference:cache" in report
    assert "student: agreement with the teacher was not measured: its vocabulary" in report
    saved = json.loads((config.out / "results.json").read_text())["rows"][0]
    assert saved["agreement"]["whole"]["kl"] == teacher.agreement.whole.kl
    assert saved["bleu_raw"] is not None and saved["latency"]["first_token_ms"] > 0


def test_students_draft_for_the_teacher_where_that_is_asked(config, tmp_path):
    tiny = save_tiny(tmp_path / "tiny", 1, positions=20)
    config = replace(
        config, checkpoints=(*config.checkpoints, tiny), samples=0, self_check=False, as_draft=3,
        latency_prompt_tokens=16,
    )  # fmt: skip
    teacher, student, short = run_benchmark(config).rows
    assert teacher.draft_speed is None and short.draft_speed is not None
    speed = student.draft_speed
    assert (speed.drafted, speed.generations, speed.same) == (3, 2, 2)
    assert speed.speedup == speed.tokens_per_second / speed.alone_tokens_per_second
    page = (config.out / "report.html").read_text()
    assert "As drafts for the teacher" in page and "measured tokens a pass" in page
    again = run_benchmark(config).rows
    assert again[1].draft_speed == speed  # kept
    with pytest.raises(EvaluationError, match="as_draft needs the teacher"):
        replace(config, teacher=None)


def test_second_run_reuses_every_row_and_a_new_student_leaves_the_teacher_alone(
    config, loaded, tmp_path
):
    first = run_benchmark(config)
    loaded.clear()
    assert run_benchmark(config).rows == first.rows
    assert loaded == []
    other = save_tiny(tmp_path / "other", 2, positions=1024)
    run_benchmark(replace(config, checkpoints=(*config.checkpoints, other)))
    assert loaded == ["other"]


def test_scoring_again_under_other_limits_loads_no_model(config, loaded):
    first = run_benchmark(config)
    loaded.clear()
    lines = sum(1 for path in _sample_files(config.out) for _ in path.open())
    again = run_benchmark(replace(config, timeout=4.0, memory_mb=900, ks=(1,)))
    assert loaded == []
    assert again.rows[1].latency == first.rows[1].latency
    assert again.rows[1].size_bytes == first.rows[1].size_bytes
    assert "timeout:4s|memory:900MiB" in again.signatures["greedy"]
    assert sum(1 for path in _sample_files(config.out) for _ in path.open()) == lines


def _sample_files(out):
    return [p for p in (out / "samples").glob("*.jsonl") if not p.name.endswith(".results.jsonl")]


def test_canonical_completions_score_100_percent_and_are_called_implausible(config):
    config = replace(config, samples=0, self_check=False)
    run_benchmark(config)
    solutions = {problem.task_id: problem.canonical_solution for problem in HUMANEVAL}
    for path in _sample_files(config.out):
        lines = [json.loads(line) for line in path.open()]
        for line in lines:
            line["completion"] = solutions[line["task_id"]]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in (config.out / "rows").iterdir():
        path.unlink()
    result = run_benchmark(config)
    for row in result.rows:
        assert row.greedy_pass_at_1 == 1.0
        assert row.bleu == pytest.approx(100)
        assert row.pass_at == {} and row.greedy_outcomes == {"passed": 2}
    assert result.rows[1].comparison.kept_percent == 100
    assert result.rows[1].comparison.both == 2
    (note,) = [note for note in result.notes if "implausible" in note]
    assert note.startswith("student: greedy pass@1 of 100.0% (95 % 34.2% to 100.0%) from 0 M")


def test_interrupted_run_leaves_whole_files_and_goes_on(config, loaded, monkeypatch):
    original = measure.measure_latency

    def interrupt_at_student(model, *arguments):
        if len(loaded) == 2:
            raise KeyboardInterrupt
        return original(model, *arguments)

    monkeypatch.setattr(measure, "measure_latency", interrupt_at_student)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(config)
    partial = json.loads((config.out / "results.json").read_text())
    assert [row["label"] for row in partial["rows"]] == ["teacher"]
    assert not partial["complete"]
    assert "Not complete" in (config.out / "results.md").read_text()
    assert not list(config.out.rglob("*.partial"))
    monkeypatch.setattr(measure, "measure_latency", original)
    loaded.clear()
    assert len(run_benchmark(config).rows) == 2
    assert loaded == ["student"]


def test_a_second_process_on_one_folder_is_refused_and_loads_nothing(config, loaded):
    config.out.mkdir()
    words = "out is being written by host .*, pid"
    with writer_lock(config.out), pytest.raises(EvaluationError, match=words):
        run_benchmark(config)
    assert not loaded and not list(config.out.iterdir())


def test_prompts_beyond_the_positions_are_reported(config, tmp_path):
    small = save_tiny(tmp_path / "small", 3, positions=64, width=16)
    result = run_benchmark(replace(config, checkpoints=(small,), teacher=None, samples=0))
    assert result.rows[0].greedy_outcomes == {"prompt_too_long": 2}
    assert result.rows[0].speedup is None
    assert "small: 2 of 2 prompts leave no room in its positions" in " ".join(result.notes)


def test_offline_table_needs_no_account(config, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_benchmark(replace(config, checkpoints=(), samples=0, wandb="offline"))
    assert list((config.out / "wandb").glob("offline-run-*/*.wandb"))


def test_results_need_a_folder(config):
    config.out.write_text("text")
    with pytest.raises(EvaluationError, match="out is a file; results need a folder"):
        run_benchmark(config)


def test_cache_option_rates_models_on_uncontaminated_problems_too(config, tmp_path, tiny_cache):
    leaked = load_problems(str(EXAMPLES), "train")[0]
    problems = [
        {
            "task_id": f"T/{i}",
            "prompt": prompt,
            "entry_point": "f",
            "canonical_solution": f"    return {7 + i}\n",
            "test": f"def check(candidate):\n    assert candidate() == {7 + i}\n",
        }
        for i, prompt in enumerate((f'"""\n{leaked.code}\n"""\n\ndef f():\n', "def f():\n"))
    ]
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text("".join(json.dumps(row) + "\n" for row in problems))
    config = replace(config, benchmark=str(benchmark), cache=tiny_cache, samples=0, limit=None)
    result = run_benchmark(replace(config, agreement_documents=0))
    assert list(result.contamination.contaminated) == ["T/0"]
    assert [row.uncontaminated_problems for row in result.rows] == [1, 1]
    assert all(row.greedy_pass_at_1_uncontaminated == 0 for row in result.rows)
    saved = json.loads((config.out / "results.json").read_text())
    assert saved["contamination"]["num_documents"] == 24
    assert any(note.startswith("1 of 2 problems share 13 words") for note in saved["notes"])
