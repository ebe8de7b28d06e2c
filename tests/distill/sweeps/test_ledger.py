"""What a cache saves against keeping the teacher in the loop."""

import json
from dataclasses import replace

import matplotlib.image
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from distill.learning.student import build_student
from distill.settings.config import SweepConfig
from distill.settings.shapes import parse_shape
from distill.sweeps.ledger import Ledger, RunCost, open_ledger
from distill.sweeps.plots import plot_ledger
from distill.sweeps.result import RunOutcome
from distill.sweeps.run_size import measure_run
from distill.sweeps.sweep import plan_sweep, sweep
from distill.sweeps.tables import ledger_table, ledger_words, plan_table
from tests.support.distill_fakes import FakeReader, small_recipe


@pytest.fixture
def reader(tmp_path):
    return FakeReader(tmp_path)


def cost(name, **changed):
    values = {"num_parameters": 10, "num_epochs": 3, "num_tokens": 300, "seconds": 5.0}
    return RunCost(name=name, **{"learns_from_teacher": True, **values, **changed})


LEDGER = Ledger(
    train_tokens=100,
    cache_tokens=400,
    teacher_parameters=1000,
    cache_seconds=8.0,
    runs=(cost("a"), cost("b", num_parameters=20)),
)


def printed(table):
    wide = Console(width=140)
    with wide.capture() as capture:
        wide.print(table)
    return capture.get()


def test_the_teacher_runs_once_against_once_an_epoch_and_student():
    assert LEDGER.loop_tokens == 600
    assert LEDGER.teacher_flops(LEDGER.cache_tokens) == 2 * 1000 * 400
    assert LEDGER.student_flops == 6 * 10 * 300 + 6 * 20 * 300
    assert LEDGER.loop_seconds == 12.0
    assert LEDGER.student_seconds == 10.0
    assert LEDGER.to_json()["computed"]["teacher_flops_in_the_loop"] == 2 * 1000 * 600


def test_the_cache_has_paid_for_itself_when_the_loop_would_have_read_as_much():
    assert LEDGER.break_even_epochs == 4
    assert LEDGER.paid_by == "b"
    words = ledger_words(LEDGER)
    assert "of students that learn from its teacher: 6 were trained; it paid with b." in words
    first_only = replace(LEDGER, runs=LEDGER.runs[:1])
    assert first_only.paid_by is None
    assert "3 were trained, too few so far" in ledger_words(first_only)


def test_a_student_without_the_teachers_term_saves_no_teacher():
    runs = (cost("labels", learns_from_teacher=False), *LEDGER.runs)
    ledger = replace(LEDGER, runs=runs)
    assert ledger.loop_tokens == LEDGER.loop_tokens and ledger.paid_by == "b"
    assert ledger.student_flops == LEDGER.student_flops + 6 * 10 * 300
    assert "6 were trained" in ledger_words(ledger)


@pytest.mark.parametrize(
    ("alphas", "learns"),
    [((0.0, None), False), ((0.0, 0.0), False), ((0.0, 0.5), True), ((0.5, 0.0), True)],
)
def test_a_recipe_learns_from_the_teacher_if_alpha_is_ever_above_0(reader, alphas, learns):
    recipe = small_recipe(alpha=alphas[0], alpha_end=alphas[1])
    outcome = RunOutcome(name="small", out=reader.path, status="trained", seconds=1.0)
    ledger = open_ledger(reader, [measure_run(recipe, reader)], [outcome])
    assert ledger.runs[0].learns_from_teacher == learns


def test_what_nobody_knows_is_left_out():
    unknown = replace(LEDGER, teacher_parameters=None, cache_seconds=None)
    text = printed(ledger_table(unknown))
    assert "teacher's FLOPs" not in text and "teacher's seconds" not in text
    assert "give --teacher-parameters" in ledger_words(unknown)
    assert unknown.to_json()["computed"]["loop_seconds"] is None
    full = printed(ledger_table(LEDGER))
    assert "1.2e+06" in full and "give --teacher" not in ledger_words(LEDGER)


def test_a_sweep_leaves_its_ledger(tmp_path, reader):
    reader.created = {"teacher_parameters": 5000, "teacher_rows": 100, "teacher_seconds": 2.0}
    recipes = tmp_path / "r.yaml"
    recipes.write_text(
        "defaults: {student: 1x16x2, temperature: 2, alpha: 0.5, epochs: 2, sample_prompts: 0}\n"
        "grid: {lr: [1e-3, 2e-3]}"
    )
    config = SweepConfig(cache=reader.path, recipes=recipes, out=tmp_path / "out", wandb="disabled")
    sweep(config, reader=reader)
    ledger = json.loads((tmp_path / "out/ledger.json").read_text())
    tokens = {split: int(reader.document_lengths(split).sum()) for split in reader.splits}
    num_rows = sum(tokens.values()) - 30
    assert ledger["measured"]["cache_seconds"] == pytest.approx(2 * num_rows / 100)
    assert ledger["computed"]["loop_tokens"] == 4 * tokens["train"]
    assert ledger["computed"]["teacher_flops_once"] == 2 * 5000 * sum(tokens.values())
    run = json.loads((tmp_path / "out/lr0.001/run.json").read_text())
    first = ledger["measured"]["runs"][0]
    assert first["num_parameters"] == run["num_parameters"]
    assert first["seconds"] == pytest.approx(run["seconds"], abs=1e-3)
    planned = plan_sweep(config, reader)
    assert [size.num_steps for size in planned] == [run["steps"]] * 2
    text = printed(plan_table(planned))
    assert f"2 runs, {4 * tokens['train']:,} training tokens, {2 * run['steps']} optimizer" in text
    assert text.count("lr0.00") == 2


def test_the_ledger_is_drawn_where_the_teachers_size_is_known(tmp_path, painted):
    path = plot_ledger(LEDGER, tmp_path / "plots")
    assert matplotlib.image.imread(path)[..., :3].std() > 0.01
    assert plot_ledger(replace(LEDGER, teacher_parameters=None), tmp_path) is None
    assert plot_ledger(replace(LEDGER, runs=()), tmp_path) is None


def test_failed_runs_cost_nothing_that_counts(reader):
    size = measure_run(small_recipe(name="a"), reader)
    outcomes = [RunOutcome(name="a", out=reader.path, status="failed", error="no")]
    ledger = open_ledger(reader, [size], outcomes, teacher_parameters=7)
    assert ledger.runs == () and ledger.paid_by is None
    assert ledger.teacher_parameters == 7 and ledger.cache_seconds is None


@pytest.mark.parametrize("student", ["1x16x2", "3x48x4"])
def test_parameters_are_counted_as_the_built_student_has_them(reader, student):
    model = build_student(
        parse_shape(student),
        vocab_size=reader.vocab_size,
        max_length=reader.max_length,
        tokenizer=AutoTokenizer.from_pretrained(reader.tokenizer_path),
    )
    assert (
        measure_run(small_recipe(student=student), reader).num_parameters == model.num_parameters()
    )
