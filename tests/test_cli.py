"""The command line: help, errors as sentences, exit codes."""

import os
import signal
import subprocess
import sys
import time
import warnings

import click
import pytest
from click.testing import CliRunner

import cli
from cache.errors import CacheWarning
from tests.support.builds import take_interrupts
from tests.support.command_line import run
from tests.support.paths import ROOT

HEAVY = {"torch", "transformers", "datasets", "evaluate", "wandb", "h5py", "numpy", "matplotlib"}


def commands(group: click.Group = cli.main, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path):
    code, output = run(*path, "--help")
    assert code == 0
    assert f"Example:\n    python cli.py {' '.join(path)}" in output


def test_help_imports_nothing_heavy():
    script = (
        "import sys, cli\n"
        "try: cli.main(['cache-teacher', '--help'])\n"
        "except SystemExit: print(sorted(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(eval(result.stdout.splitlines()[-1]))
    assert not HEAVY & loaded


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_sentence_on_standard_error(monkeypatch):
    def warn():
        for _ in range(2):
            warnings.warn("the network is gone.", CacheWarning, stacklevel=1)

    monkeypatch.setitem(cli.main.commands, "report", click.Command("report", callback=warn))
    result = CliRunner().invoke(cli.main, ["report"])
    assert result.stderr == "Warning: the network is gone.\n"


def test_a_dry_run_prints_the_plan_and_writes_nothing(tiny_teacher, tmp_path):
    code, output = run(
        "cache-teacher", "--teacher", tiny_teacher, "--dataset", "examples/problems.jsonl",
        "--max-length", 300, "--out", tmp_path / "c", "--dry-run",
    )  # fmt: skip
    assert code == 0, output
    assert "validation" in output and "bytes/token" in output
    assert "Left out of train: task_id 6" in output and "over the limit of 300" in output
    assert not (tmp_path / "c").exists()


def test_cache_teacher_prints_a_summary(tiny_teacher, tmp_path):
    words = (
        "cache-teacher", "--teacher", tiny_teacher, "--dataset", "examples/problems.jsonl",
        "--limit", 2, "--out", tmp_path / "c",
    )  # fmt: skip
    code, output = run(*words)
    assert code == 0, output
    assert "documents" in output and "tokens/s" in output
    code, output = run(*words)
    assert code == 0 and "was complete already" in output


def test_inspect_shows_identity_mass_and_an_example(tiny_cache):
    code, output = run("cache", "inspect", tiny_cache, "--split", "validation", "--document", 2)
    assert code == 0, output
    for part in (
        "teacher weights",
        "Fidelity over",
        "bytes/token",
        "validation document 2",
        "Response:",
    ):
        assert part in output


def test_verify_says_sound_or_names_the_shard_with_exit_code_1(tiny_cache, tmp_path):
    import shutil

    code, output = run("cache", "verify", tiny_cache)
    assert (code, "is sound" in output) == (0, True)
    copy = shutil.copytree(tiny_cache, tmp_path / "copy")
    (copy / "train" / "shard-00001.h5").write_bytes(b"not HDF5")
    code, output = run("cache", "verify", copy)
    assert code == 1
    assert "train/shard-00001.h5: 8 bytes, the manifest promises" in output
    assert "1 faults in" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cache", "inspect", "nowhere"), "Error: There is no cache at nowhere"),
        (("cache-teacher", "--out", "x", "--top-k", 0), "top_k is 0; it must be 1 or more"),
        (("cache-teacher", "--out", "x", "--max-length", 1), "a document needs 2 tokens"),
        (("cache-teacher", "--out", "x", "--split", "train", "--split", "train"), "each once"),
        (("train", "--cache", "x", "--recipe", "nobody"), "no recipe named 'nobody'"),
        (("train", "--cache", "x", "--recipe", "model_44m_t2.0_a0.5"), "There is no cache at x"),
        (("evaluate",), "nothing to evaluate"),
    ],
)
def test_mistakes_become_one_sentence_and_exit_code_1(words, message):
    code, output = run(*words)
    assert code == 1
    assert message in output and "Traceback" not in output


def test_the_command_that_goes_on_is_the_same_and_train_resumes(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cli.py", "train", "--cache", "my cache"])
    assert cli._command_to_go_on() == "python cli.py train --cache 'my cache' --resume"
    monkeypatch.setattr(sys, "argv", ["/env/bin/logitcache", "sweep", "--out", "runs"])
    assert cli._command_to_go_on() == "logitcache sweep --out runs"


def test_ctrl_c_in_training_prints_the_command_that_resumes(tiny_cache, tmp_path):
    words = [
        sys.executable, "cli.py", "train", "--cache", tiny_cache, "--out", tmp_path / "run",
        "--recipe", "model_44m_t2.0_a0.5", "--student", "1x16x1", "--epochs", "400",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        preexec_fn=take_interrupts,
    )
    while process.poll() is None and not list(tmp_path.glob("run/checkpoints/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "To resume:\n  python cli.py train" in output and output.rstrip().endswith("--resume")


def test_a_log_holds_no_bars_of_libraries(tmp_path, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    code, _ = run("cache", "inspect", tmp_path / "nowhere")
    assert code == 1 and os.environ["TQDM_DISABLE"] == "1"
    bar = "from tqdm.auto import tqdm; list(tqdm(range(3), desc='Converting'))"
    done = subprocess.run([sys.executable, "-c", bar], capture_output=True, text=True, check=True)
    assert done.stderr == ""
