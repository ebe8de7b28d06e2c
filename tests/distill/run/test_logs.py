"""What a run leaves behind where it cannot write, and what it logs when it goes on."""

import struct
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

import distill.run.train
from distill.errors import DistillError
from distill.learning.precision import start_accelerator
from distill.run.logs import StepLog, read_metrics
from distill.run.train import train
from distill.settings.config import TrainConfig
from tests.support.distill_fakes import (
    METRICS,
    FakeReader,
    Interrupt,
    checkpoints,
    files_of_at_most,
    small_recipe,
)


@pytest.fixture
def reader(tmp_path):
    return FakeReader(tmp_path / "cache")


@pytest.fixture
def config(tmp_path, reader):
    return TrainConfig(
        cache=reader.path, recipe=small_recipe(), out=tmp_path / "out", wandb="disabled"
    )


@pytest.mark.parametrize("num_bytes", [100_000, 300_000])  # the model, the optimizer
def test_a_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on(
    config, reader, monkeypatch, num_bytes
):
    save, saved = distill.run.train.save_checkpoint, []

    def save_on_a_disk_that_fills(folder, state, learner):
        saved.append(state.step)
        with files_of_at_most(num_bytes) if len(saved) == 2 else nullcontext():
            save(folder, state, learner)

    monkeypatch.setattr(distill.run.train, "save_checkpoint", save_on_a_disk_that_fills)
    config = replace(config, save_every=4)
    with pytest.raises(
        DistillError,
        match=r"checkpoint of step 6 in .* could not be written \(.*"
        r"step-00000004, is intact\. Free space .*--resume",
    ):
        train(config, reader=reader)
    assert checkpoints(config.out) == ["step-00000004"]
    assert train(replace(config, resume=True), reader=reader).resumed_from_step == 4


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    log = StepLog(tmp_path / METRICS, last_step=0)
    with files_of_at_most(10):
        with pytest.raises(DistillError, match=r"metrics.jsonl could not be written"):
            log.write({"step": 1, "grad_norm": 1.0})
        log.close()
    assert read_metrics(tmp_path / METRICS) == []


def test_a_student_that_cannot_be_written_keeps_its_last_checkpoint(config, reader, monkeypatch):
    finish = distill.run.train.finish_run

    def finish_on_a_full_disk(*args, **options):
        with files_of_at_most(100_000):
            finish(*args, **options)

    monkeypatch.setattr(distill.run.train, "finish_run", finish_on_a_full_disk)
    with pytest.raises(DistillError, match="the student in .* could not be written.*is intact"):
        train(config, reader=reader)
    assert checkpoints(config.out) == ["step-00000006", "step-00000012"]


def test_checkpoints_need_a_step_between_them(config):
    with pytest.raises(DistillError, match="save_every is 0.*at least 1 step"):
        replace(config, save_every=0)


def wandb_records(path):
    """The records of a W&B file: a LevelDB log of protobuf messages after a header of 7 bytes."""
    content, record, at = path.read_bytes(), b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def logged_steps(folder):
    """Steps of the offline W&B runs of a folder, in the order of the runs.

    A run's `finish` only asks W&B's own process to write the end of the file; that has happened
    when the process has ended, which `teardown` waits for.
    """
    wandb.teardown()
    steps = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                steps.append(record.history.step.num)
    return steps


def test_a_resumed_run_logs_no_step_twice_to_wandb(config, reader):
    offline = replace(config, wandb="offline")
    with pytest.raises(KeyboardInterrupt):
        train(offline, reader=Interrupt(reader, 18 + 8, KeyboardInterrupt()))
    before = logged_steps(config.out)
    assert before == list(range(before[-1] + 1)) and before[-1] > 6  # past the checkpoint
    train(replace(offline, resume=True), reader=reader)
    assert logged_steps(config.out) == list(range(13))


def test_a_run_interrupted_in_validation_logs_its_last_step_and_the_validation_to_wandb(
    config, reader, monkeypatch
):
    rows = []
    run = SimpleNamespace(
        log=lambda row, step, commit: rows.append(row), finish=lambda exit_code: None
    )
    monkeypatch.setattr("wandb.init", lambda **options: run)
    offline = replace(config, wandb="offline")
    with pytest.raises(KeyboardInterrupt):
        train(offline, reader=Interrupt(reader, 3 + 12 + 1, KeyboardInterrupt()))
    assert len(read_metrics(config.out / METRICS)) == 7  # validation, and steps 1 to 6
    train(replace(offline, resume=True), reader=reader)
    assert [row["step"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 6, 12]
    assert all("train_loss" in row for row in rows[1:])


def test_a_run_in_fp16_counts_overflows_and_resumes_with_its_scale(config, reader, monkeypatch):
    """With the parts of accelerate that fp16 has on a GPU put in place by hand."""

    def start_in_fp16(precision):
        accelerator = start_accelerator(precision)
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
        return accelerator

    monkeypatch.setattr(distill.run.train, "start_accelerator", start_in_fp16)
    with pytest.raises(KeyboardInterrupt):
        train(config, reader=Interrupt(reader, 20, KeyboardInterrupt()))
    resumed, whole = replace(config, resume=True), replace(config, out=config.out / "../whole")
    train(resumed, reader=reader)
    train(whole, reader=reader)
    curves = [
        [
            (line["train_loss"], line["loss_scale"], line["num_overflows"])
            for line in read_metrics(run.out / METRICS)
            if "train_loss" in line
        ]
        for run in (resumed, whole)
    ]
    assert curves[0] == curves[1]
    num_overflows = curves[0][-1][2]
    assert 0 < num_overflows < 12 and curves[0][-1][1] == 2.0 ** (26 - num_overflows)
