"""A benchmark that is killed without warning goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.benchmark import run_benchmark
from evaluation.config import BenchmarkConfig
from tests.support.paths import ROOT
from tests.support.tiny_models import save_tiny


def sample_lines(out: Path) -> list[str]:
    paths = sorted((out / "samples").glob("*.jsonl")) if (out / "samples").is_dir() else []
    whole = [path for path in paths if not path.name.endswith(".results.jsonl")]
    return [line for path in whole for line in path.read_text().splitlines()]


@pytest.fixture
def config(tmp_path):
    return BenchmarkConfig(
        checkpoints=(save_tiny(tmp_path / "student", 1, positions=1024, width=16),),
        limit=2,
        samples=20,
        temperature=0.8,
        max_new_tokens=48,
        batch_size=2,
        latency_prompts=1,
        latency_tokens=2,
        latency_warmup=0,
        latency_batch=1,
        workers=2,
        self_check=False,
        device="cpu",
        out=tmp_path / "killed",
    )


def test_sigkill_in_generation_costs_no_finished_completion(config, tmp_path):
    words = [sys.executable, "cli.py", "evaluate", "--checkpoints", config.checkpoints[0]]
    for name in (
        "limit", "samples", "temperature", "max_new_tokens", "batch_size", "latency_prompts",
        "latency_tokens", "latency_warmup", "latency_batch", "workers", "device", "out",
    ):  # fmt: skip
        words += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    process = subprocess.Popen(
        [*words, "--no-self-check"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "stderr").open("w"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and len(sample_lines(config.out)) < 6:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    before = sample_lines(config.out)
    assert 6 <= len(before) < 42
    killed = run_benchmark(config).rows[0]
    after = sample_lines(config.out)
    whole_before = [line for line in before if line in after]
    assert len(whole_before) >= len(before) - 1  # at most one line was torn
    keys = [(json.loads(line)["key"], json.loads(line)["sample"]) for line in after]
    assert len(set(keys)) == len(keys) == 42

    undisturbed = replace(config, out=tmp_path / "undisturbed")
    expected = run_benchmark(undisturbed).rows[0]
    assert sorted(after) == sorted(sample_lines(undisturbed.out))
    assert killed.pass_at == expected.pass_at
    assert killed.greedy_passed == expected.greedy_passed
    assert killed.sampled_passed == expected.sampled_passed
