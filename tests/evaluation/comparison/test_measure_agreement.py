import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from evaluation.agreement.scores import Agreement
from evaluation.benchmark import prepare
from evaluation.comparison.measure_agreement import measure_agreement
from evaluation.comparison.model_row import ModelRow, row_notes
from evaluation.config import BenchmarkConfig
from evaluation.errors import EvaluationError
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import ModelSource, load_model
from evaluation.report.markdown import to_markdown
from evaluation.report.tables import flat_rows, measured_tables
from evaluation.report.terminal import to_rich_tables
from tests.support.reports import STUDENT, TEACHER, result
from tests.support.tiny_models import gpt2
from tests.support.tiny_teacher import save_teacher


@pytest.fixture
def student(tiny_cache, tmp_path) -> Path:
    folder = tmp_path / "student"
    gpt2().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_cache / "tokenizer").save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_cache, tiny_teacher, student, tmp_path):
    return BenchmarkConfig(
        checkpoints=(student,),
        teacher=str(tiny_teacher),
        cache=tiny_cache,
        agreement_documents=3,
        device="cpu",
        out=tmp_path / "out",
    )


def measure(config, path, *, is_teacher=False):
    """Agreement, why there is none, the stages reported, and how often a model was loaded."""
    conditions = prepare(config)
    source = ModelSource(label=Path(path).name, source=str(path), is_teacher=is_teacher)
    loads, stages = [], []

    def load():
        loads.append(source.label)
        return load_model(source, torch.float32, torch.device("cpu"))

    model = ModelOnDemand(load, torch.device("cpu"))
    agreement, why = measure_agreement(
        source, model, conditions, source.label, lambda *stage: stages.append(stage)
    )
    return agreement, why, stages, len(loads)


def test_agreement_is_measured_once_and_kept(config, student):
    first, why, stages, loads = measure(config, student)
    assert isinstance(first, Agreement) and first.reference == "cache" and why is None
    assert first.num_documents == 3 and first.whole.num_rows > first.completion.num_rows > 0
    assert loads == 1 and {stage[0] for stage in stages} == {"agreement"}
    assert sum(stage[1] for stage in stages) == stages[0][2] == 3
    again, _, stages, loads = measure(config, student)
    assert again == first and loads == 0 and stages == []


def test_other_documents_are_measured_anew(config, student):
    few = measure(config, student)[0]
    more, _, _, loads = measure(replace(config, agreement_documents=5), student)
    assert loads == 1 and (few.num_documents, more.num_documents) == (3, 5)


def test_agreement_can_be_left_out(config, student):
    for without in (replace(config, agreement_documents=0), replace(config, cache=None)):
        assert measure(without, student) == (None, None, [], 0)


def test_live_agreement_runs_the_teacher_once_for_all_students(config, student, tiny_teacher):
    live = replace(config, live_agreement=True)
    own, _, stages, loads = measure(live, tiny_teacher, is_teacher=True)
    assert loads == 1 and {stage[0] for stage in stages} == {"teacher's rows", "agreement"}
    assert own.reference == "live" and abs(own.whole.kl) < 1e-6 and own.whole.top1 == 1
    exact, _, stages, _ = measure(live, student)
    assert {stage[0] for stage in stages} == {"agreement"}
    cached = measure(config, student)[0]
    assert exact.whole.kl == pytest.approx(cached.whole.kl, rel=0.01)
    assert exact.whole.kl != cached.whole.kl


def test_live_teacher_is_loaded_for_a_student_where_its_rows_are_not_kept(config, student):
    agreement, _, stages, loads = measure(replace(config, live_agreement=True), student)
    assert agreement.reference == "live" and loads == 1
    assert {stage[0] for stage in stages} == {"teacher's rows", "agreement"}


def test_another_vocabulary_is_a_note_and_no_error(config, tiny_cache, tmp_path):
    folder = tmp_path / "wide"
    gpt2(vocab_size=400).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_cache / "tokenizer").save_pretrained(folder)
    agreement, why, _, _ = measure(config, folder)
    assert agreement is None
    assert why == "its vocabulary has 400 tokens and the cache's 384"
    again, kept, _, loads = measure(config, folder)
    assert (again, kept, loads) == (None, why, 0)
    (note,) = row_notes(replace(TEACHER, no_agreement=why), 164)
    assert note == f"teacher-3b: agreement with the teacher was not measured: {why}."
    _, why, _, _ = measure(replace(config, teacher=str(folder), live_agreement=True), folder)
    assert why.startswith("its vocabulary has 400")


def test_a_live_teacher_with_another_vocabulary_is_named(config, student, tiny_cache, tmp_path):
    folder = tmp_path / "wide"
    gpt2(vocab_size=400).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_cache / "tokenizer").save_pretrained(folder)
    config = replace(config, teacher=str(folder), live_agreement=True)
    assert measure(config, student)[1] == (
        "of the live teacher, its vocabulary has 400 tokens and the cache's 384"
    )


def test_live_agreement_needs_a_teacher_and_documents(student):
    with pytest.raises(EvaluationError, match="live_agreement needs a teacher.*--cache"):
        BenchmarkConfig(checkpoints=(student,), live_agreement=True)


def test_rows_keep_agreement_and_say_what_limits_it(config, student):
    agreement = measure(config, student)[0]
    row = replace(STUDENT, agreement=agreement)
    assert ModelRow.from_json(row.to_json()) == row
    rows = [STUDENT.to_json(), row.to_json()]
    unmeasured, flat = flat_rows(rows)
    assert flat["kl_whole"] == agreement.whole.kl
    assert flat["top1_agreement_completion"] == agreement.completion.top1
    whole, completion = (one for one in measured_tables(rows) if "Agreement" in one.title)
    assert [index for index, _ in whole.rows] == [index for index, _ in completion.rows] == [1]
    shown = {column.name: column.text(rows[1]) for column in whole.columns}
    assert shown["KL"].startswith(f"{agreement.whole.kl:.3f} [")
    shown = {column.name: column.text(rows[1]) for column in completion.columns}
    assert shown["top-1"].startswith(f"{100 * agreement.completion.top1:.1f} % [")
    assert set(flat) == set(unmeasured) and unmeasured["kl_whole"] is None
    (note,) = row_notes(replace(row, agreement=replace(agreement, num_cut=2)), 164)
    assert "2 of 3 held-out documents are longer than its positions" in note
    (note,) = row_notes(replace(TEACHER, agreement=agreement), 164)
    assert f"differs from the cache's targets by {agreement.whole.kl:.4f} nats" in note


def test_agreement_is_in_the_report_with_its_signature(config, student):
    agreement = measure(config, student)[0]
    row = replace(STUDENT, label="model_202m_t2.0_a0.7", agreement=agreement)
    signature = prepare(config).agreement_signature
    assert signature.startswith("reference:cache (KL of the teacher to it 0.0")
    assert "|T:1|cache:" in signature and "|split:validation|documents:3|rows:" in signature
    whole = result(TEACHER, row, signatures={**result(row).signatures, "agreement": signature})
    text = to_markdown(whole)
    assert "## Agreement with the teacher on held-out documents" in text
    assert f"- agreement: `{signature}`" in text
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(to_rich_tables(whole, 80))
    assert "…" not in (shown := console.export_text()) and "bits/byte" in shown
    live = replace(config, live_agreement=True)
    assert prepare(live).agreement_signature.startswith("reference:live:teacher0@")
    assert prepare(config).row_key("m") != prepare(live).row_key("m")


def test_other_weights_of_a_live_teacher_are_another_reference(config, tiny_teacher, tmp_path):
    other = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, other)
    config = replace(config, teacher=str(other), live_agreement=True)
    before = prepare(config).agreement_signature
    save_teacher(other, seed=1)
    assert prepare(config).agreement_signature != before
