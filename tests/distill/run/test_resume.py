"""A killed run goes on where it was, and ends as if nothing had happened."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from transformers import AutoTokenizer

import distill.run.train
from distill.errors import DistillError
from distill.run.logs import read_metrics
from distill.run.progress import console
from distill.run.train import train
from distill.settings.config import TrainConfig
from tests.support.distill_fakes import (
    METRICS,
    FakeReader,
    Interrupt,
    checkpoints,
    flip_a_bit,
    small_recipe,
    write_tokenizer,
)
from tests.support.killed_runs import (
    MOMENTS,
    PACKED,
    UNEVEN,
    VALIDATED,
    find_it_taken,
    hand_over,
    kill_after_validation,
    kill_at,
    kill_at_random,
    resume_pair,
    save_gradients,
    sweep_pair,
    train_pair,
    train_whole,
)
from tests.support.scenarios import under_way
from tests.support.students import save_student

SAMPLES = "samples.jsonl"
KILLED = (*MOMENTS, "killed_at_random")
SCENARIOS = {
    "whole": (train_whole, {}),
    **{moment: (kill_at,) for moment in MOMENTS},
    "killed_at_random": (kill_at_random, 3),
    "validated": (train_whole, VALIDATED),
    "after_validation": (kill_after_validation,),
    "pair_whole": (train_pair, {}),
    "pair_resumed": (resume_pair,),
    "alone": (train_whole, UNEVEN),
    "pair": (train_pair, UNEVEN),
    "handed_over": (hand_over,),
    "alone_packed": (train_whole, PACKED),
    "pair_packed": (train_pair, PACKED),
    "gradients": (save_gradients,),
    "pair_swept": (sweep_pair,),
    "taken": (find_it_taken,),
}
"""By the names of their folders, in the order in which the tests ask for them."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a scenario, by its name: all are under way, and the one is waited for."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(folder / "student"))
    source, _ = save_student(folder / "student", "qwen2", tokenizer)
    adapted = {**UNEVEN, "epochs": 1, "student": source, "lora_rank": 2}
    shared = {"alone_adapted": (train_whole, adapted), "pair_adapted": (train_pair, adapted)}
    with under_way(folder, {**SCENARIOS, **shared}) as ended:
        yield ended


def weights(run):
    return safetensors.torch.load_file(run / "model.safetensors")


@pytest.mark.parametrize(
    ("whole", "resumed"),
    [*(("whole", moment) for moment in KILLED), ("pair_whole", "pair_resumed")],
)
def test_killed_run_resumes_to_identical_weights(runs, whole, resumed):
    expected, actual = weights(runs(whole)), weights(runs(resumed))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("moment", KILLED)
def test_killed_run_logs_every_step_once_and_the_same(runs, moment):
    def losses(run):
        lines = read_metrics(runs(run) / METRICS)
        return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]

    assert losses(moment) == losses("whole")
    trained = [line["step"] for line in losses(moment) if "train_loss" in line]
    assert trained == list(range(1, 19))


def test_a_run_killed_after_a_validation_within_an_epoch_repeats_nothing(runs):
    whole, killed = runs("validated"), runs("after_validation")
    for name in ("model.safetensors", "best/model.safetensors", SAMPLES):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    found = [read_metrics(run / METRICS) for run in (whole, killed)]
    validated = [[line for line in lines if "val_kl" in line] for lines in found]
    assert validated[0] == validated[1]
    assert [line["step"] for line in validated[1]] == [0, 5, 6, 10, 12]
    assert [line["step"] for line in read_metrics(killed / SAMPLES)] == [0, 5, 6, 10, 12]
    best = [json.loads((run / "run.json").read_text())["best"] for run in (whole, killed)]
    assert best[0] == best[1] and not list(killed.glob("best-*"))


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("whole", None),
        ("first_epoch", None),
        ("mid_epoch", 12),
        ("mid_step", 16),
        ("mid_checkpoint", 4),
        ("between_checkpoints", 10),
        ("mid_finish", 18),
        ("after_validation", 4),
        ("pair_resumed", 16),
        ("handed_over", 4),
    ],
)
def test_run_says_where_it_went_on(runs, moment, step):
    run = json.loads((runs(moment) / "run.json").read_text())
    assert run["resumed_from_step"] == step
    assert run["status"] == "finished"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alone", "pair"),
        ("alone", "handed_over"),
        ("alone_packed", "pair_packed"),
        ("alone_adapted", "pair_adapted"),
    ],
)
def test_two_processes_train_the_same_student_as_one(runs, one, other):
    expected, actual = weights(runs(one)), weights(runs(other))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=2e-5, rtol=1e-4)
    curves = [
        [(line["step"], line.get("num_rows")) for line in read_metrics(runs(name) / METRICS)]
        for name in (one, other)
    ]
    assert curves[0] == curves[1]
    samples = [[line["step"] for line in read_metrics(runs(n) / SAMPLES)] for n in (one, other)]
    assert samples[0] == samples[1] == ([0, 4, 6, 8, 12] if "packed" in one else [])
    for name in ("train_loss", "val_loss"):
        losses = [
            [line[name] for line in read_metrics(runs(run) / METRICS) if name in line]
            for run in (one, other)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_run_says_how_many_processes_it_had(runs):
    runs = [json.loads((runs(name) / "run.json").read_text()) for name in ("alone", "pair")]
    assert [run["device"]["num_processes"] for run in runs] == [1, 2]


def test_two_processes_are_one_sweep(runs):
    run = json.loads((runs("pair_swept") / "only/run.json").read_text())
    assert run["device"]["num_processes"] == 2
    trained = [line for line in read_metrics(runs("pair_swept") / "only" / METRICS) if line["step"]]
    assert [line["step"] for line in trained if "train_loss" in line] == [1, 2]


def test_all_processes_of_a_run_say_that_its_directory_is_taken(runs):
    folder = runs("taken")
    for rank in "01":
        words = (folder.parent / f"taken-{rank}.txt").read_text()
        assert "is being written by host" in words and "choose another --out" in words
    assert list(folder.iterdir()) == []


def test_processes_with_unequal_shares_of_a_step_have_the_gradient_of_one(runs):
    alone, *pair = (
        torch.load(runs("gradients") / f"{name}.pt") for name in ("alone", "rank0", "rank1")
    )
    for shared in pair:
        assert shared["loss"] == pytest.approx(alone["loss"], abs=1e-6)
        for one, other in zip(alone["gradients"], shared["gradients"], strict=True):
            torch.testing.assert_close(other, one, atol=1e-7, rtol=1e-4)


def test_finished_runs_keep_their_last_checkpoint_and_no_temporary_files(runs):
    for moment in KILLED:
        names = {path.name for path in runs(moment).rglob("*")}
        assert checkpoints(runs(moment)) == ["step-00000018"]
        assert not [name for name in names if name.endswith(".partial")]


@pytest.fixture
def reader(tmp_path):
    return FakeReader(tmp_path / "cache")


@pytest.fixture
def config(tmp_path, reader):
    return TrainConfig(
        cache=reader.path, recipe=small_recipe(), out=tmp_path / "out", wandb="disabled"
    )


@pytest.fixture
def unfinished(config, reader):
    """A run interrupted in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    return config.out


def test_an_interrupted_run_keeps_one_whole_checkpoint(unfinished):
    assert checkpoints(unfinished) == ["step-00000006"]
    files = {path.name for path in (unfinished / "checkpoints/step-00000006").iterdir()}
    assert files >= {"config.json", "model.safetensors", "optimizer.pt", "rng.pt", "state.json"}
    assert json.loads((unfinished / "run.json").read_text())["status"] == "running"


def test_a_checkpoint_needs_no_pickle(unfinished):
    for path in (unfinished / "checkpoints").rglob("*.pt"):
        torch.load(path, weights_only=True)


def test_an_unfinished_run_is_not_overwritten_without_resume(unfinished, config, reader):
    with pytest.raises(DistillError, match="holds an unfinished run of small.*--resume"):
        train(config, reader=reader)
    assert checkpoints(unfinished) == ["step-00000006"]


def test_a_finished_run_is_never_overwritten(config, reader):
    train(config, reader=reader)
    for resume in (False, True):
        with pytest.raises(DistillError, match="already holds a finished run of small.*--out"):
            train(replace(config, resume=resume), reader=reader)


def test_resuming_with_another_recipe_names_the_fields(unfinished, config, reader):
    other = replace(config, recipe=small_recipe(lr=2e-3, epochs=3), resume=True)
    with pytest.raises(
        DistillError, match=r"recipe.epochs was 2 and is 3; recipe.lr was 0.001 and is 0.002"
    ):
        train(other, reader=reader)


def test_resuming_with_another_cache_names_the_field(unfinished, config, reader):
    other = FakeReader(reader.path, identity_hash="other", template="docstring")
    with pytest.raises(DistillError, match="cache.template was 'instruction' and is 'docstring'"):
        train(replace(config, resume=True), reader=other)
    unnamed = FakeReader(reader.path, identity_hash="other")
    with pytest.raises(DistillError, match="cache identity was fake-identity and is other"):
        train(replace(config, resume=True), reader=unnamed)


def test_resuming_where_nothing_was_started_starts(config, reader):
    assert train(replace(config, resume=True), reader=reader).resumed_from_step is None


def test_a_directory_with_other_things_is_refused(config, reader):
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("precious")
    with pytest.raises(DistillError, match=r"is not empty and holds no run \(found thesis.txt\)"):
        train(config, reader=reader)
    (config.out / "thesis.txt").unlink()
    config.out.rmdir()
    config.out.write_text("")
    with pytest.raises(DistillError, match="is a file, but a run needs a directory"):
        train(config, reader=reader)


def test_a_damaged_run_or_checkpoint_says_so(unfinished, config, reader):
    resumed = replace(config, resume=True)
    optimizer = unfinished / "checkpoints/step-00000006/optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:100])
    with pytest.raises(
        DistillError, match="step-00000006 is damaged: optimizer.pt .*remove .*/out and train anew"
    ):
        train(resumed, reader=reader)
    (unfinished / "run.json").write_text('{"status": "run')
    with pytest.raises(DistillError, match="run.json is damaged.*Remove"):
        train(resumed, reader=reader)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(config, reader):
    config = replace(config, save_every=4)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    assert checkpoints(config.out) == ["step-00000004", "step-00000006"]
    flip_a_bit(config.out / "checkpoints/step-00000006/model.safetensors")
    with console.capture() as capture:
        resumed = train(replace(config, resume=True), reader=reader)
    said = " ".join(capture.get().split())
    assert "step-00000006 is damaged: model.safetensors" in said and "Going on from" in said
    assert resumed.resumed_from_step == 4
    whole = train(replace(config, out=config.out / "../whole"), reader=reader)
    assert weights(resumed.out).keys() == weights(whole.out).keys()
    assert (resumed.out / "model.safetensors").read_bytes() == (
        whole.out / "model.safetensors"
    ).read_bytes()


def test_slow_steps_are_saved_by_the_clock(config, reader, monkeypatch):
    unsaved = replace(config, out=config.out / "../unsaved")
    with pytest.raises(KeyboardInterrupt):
        train(unsaved, reader=Interrupt(reader, 3 + 8, KeyboardInterrupt()))
    assert not (unsaved.out / "checkpoints").exists()
    monkeypatch.setattr(distill.run.train, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 3 + 8, KeyboardInterrupt()))
    assert checkpoints(config.out) == ["step-00000002", "step-00000003"]


def test_files_of_others_in_the_folder_of_checkpoints_stay(config, reader):
    config = replace(config, save_every=2)
    others = {"notes.txt", "keep-me", "step-00000002-copy"}
    (config.out / "checkpoints").mkdir(parents=True)
    with pytest.raises(DistillError, match="is not empty and holds no run"):
        train(config, reader=reader)
    (config.out / "checkpoints").rmdir()
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    (config.out / "checkpoints/notes.txt").write_text("precious")
    for name in ("keep-me", "step-00000002-copy", "step-00000002.partial"):
        (config.out / "checkpoints" / name).mkdir()
    (config.out / "download.partial").write_text("precious")
    train(replace(config, resume=True), reader=reader)
    assert set(checkpoints(config.out)) == others | {"step-00000012"}
    assert (config.out / "download.partial").exists()


def test_an_order_of_documents_that_has_changed_is_refused(unfinished, config, reader, monkeypatch):
    """As by a cache of the same identity whose documents stand in other shards."""
    seen = reader.document_blocks("train")
    monkeypatch.setattr(reader, "document_blocks", lambda split: seen // 2)
    with pytest.raises(DistillError, match="stand in other shards .*trained on twice and others"):
        train(replace(config, resume=True), reader=reader)
    assert checkpoints(unfinished) == ["step-00000006"]


def test_losses_come_from_the_run_and_not_from_a_file_that_others_write(config, reader):
    whole = train(replace(config, out=config.out / "../whole"), reader=reader)
    config = replace(config, save_every=4)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 3 + 15 + 10, KeyboardInterrupt()))
    (config.out / METRICS).write_text("")
    resumed = train(replace(config, resume=True), reader=reader)
    assert resumed.resumed_from_step == 10
    assert resumed.losses == whole.losses


def test_a_diverging_run_stops_and_keeps_its_last_checkpoint(config, reader, monkeypatch):
    read = reader.read

    def poisoned(split, indices):
        documents = read(split, indices)
        if reader.num_reads > 20:
            documents.targets.topk_logprobs[:] = float("nan")
        return documents

    monkeypatch.setattr(reader, "read", poisoned)
    with pytest.raises(DistillError, match="loss became nan at step .*problems 6.*lower lr"):
        train(config, reader=reader)
    assert checkpoints(config.out) == ["step-00000006"]


@pytest.mark.parametrize("num_validation", [0, 6])
def test_weights_that_diverge_in_the_last_step_are_a_failed_run(config, tmp_path, num_validation):
    reader = FakeReader(tmp_path / "cache", num_validation=num_validation)
    recipe = small_recipe(epochs=1, batch_size=24, accumulate=1, lr=1e39)
    with pytest.raises(
        DistillError,
        match="(weights are no longer finite|validation loss became nan) after step 1.*lower lr",
    ):
        train(replace(config, recipe=recipe), reader=reader)
    assert json.loads((config.out / "run.json").read_text())["status"] == "running"
    assert not (config.out / "checkpoints").exists()


def test_an_error_of_reading_reaches_the_caller(config, reader):
    with pytest.raises(OSError, match="disk gone"):
        train(config, reader=Interrupt(reader, 3, OSError("disk gone")))
