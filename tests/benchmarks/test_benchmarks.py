"""Every benchmark runs, at a tiny size, and prints the figures that it promises."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import EXAMPLES, ROOT

FOLDER = ROOT / "benchmarks"
NUMBER = r"[\d,]*\.?\d+"
MADE = "--vocab-size 512 --width 32"
RUNS = [
    (
        "stage_one.py --teacher {teacher} --dataset {data} --limit 4 --repeats 1",
        rf"stage one, lowrank +{NUMBER} tokens/s +{NUMBER} x the time",
    ),
    (
        "fidelity.py --teacher {teacher} --dataset {data} --rows 600 --fidelity-rows 64"
        " --only default --plot {out}/plot.png",
        rf"\| default \| {NUMBER} \|.*\| {NUMBER} / {NUMBER} \|",
    ),
    (
        "students.py --teacher {teacher} --dataset {data} --limit 4 --epochs 1 --seeds 1"
        " --student 1x16x1 --student cut:1:influence --work {out} --plot {out}/curves.png",
        rf"1x16x1 +default( +{NUMBER}){{5}}\n(.*\n)*cut:1:influence +dense( +{NUMBER}){{5}}\n",
    ),
    (
        "targets.py --teacher {teacher} --dataset {data} --limit 4 --epochs 1 --seeds 1"
        " --student 1x16x1 --temperature 2 --work {out}",
        rf"T = 2\n(.*\n)*top-64, ghost( +{NUMBER}){{5}} +-?\d+%( +{NUMBER}){{3}}\n"
        rf"(.*\n)*hidden( +{NUMBER}){{5}} +100%( +{NUMBER}){{3}}\n",
    ),
    (
        "lessons.py --teacher {teacher} --dataset {data} --samples 1 --keep all --examples 0"
        " --tokens 600 --student 1x16x1 --benchmark humaneval --problems 2 --max-new-tokens 8"
        " --template instruction --work {out}",
        rf"1x16x1-own +{NUMBER} tokens  KL {NUMBER}  CE {NUMBER}\n(.*\n)*"
        rf"1x16x1-own +0/2( +{NUMBER}){{5}}\n",
    ),
    (
        "loss.py --rows 32 --vocab-size 600 --widths 16 --repeats 1",
        rf"mass, k=64( +-?{NUMBER}){{7}}\n",
    ),
    (
        "step.py --teacher {teacher} --cache {cache} --student 1x16x1 --steps 1 --repeats 1",
        rf"from the cache tiny( +{NUMBER}){{4}}\n(.*\n)*Trainer, dense targets( +{NUMBER}){{4}}\n",
    ),
    (
        "random_teacher.py --tokenizer {teacher} --tiny --out {out}/random",
        rf"{NUMBER} weights in .*/random\n",
    ),
    (
        f"decode.py --tokens 2000 --repeats 1 {MADE}",
        rf"mass, k = 64 +{NUMBER} rows/s\n(.*\n)*lowrank.* {NUMBER} rows/s",
    ),
    (
        f"pipeline.py read --tokens 2000 --repeats 1 {MADE}",
        rf"mass, k = 64 +{NUMBER} rows/s\nlowrank.* {NUMBER} rows/s",
    ),
    (
        "pipeline.py train --student 1x16x1 --vocab-size 512 --width 16 --steps 1 --rounds 1",
        rf"grouped .* waited {NUMBER}%\n1x16x1 +packed .* waited {NUMBER}%",
    ),
    (
        "pipeline.py train --student 1x16x1 --cache {cache} --steps 1 --rounds 1",
        rf"grouped .* waited {NUMBER}%\n1x16x1 +packed .* waited {NUMBER}%",
    ),
    (
        "loader.py --rows 6000 --distinct-tokens 3000 --seconds 0.2 --repeats 1",
        rf"batch_sampler, 2 workers +{NUMBER} rows/s +{NUMBER} x training loop\n(.*\n)*"
        rf".*shuffle=True, 2 workers +{NUMBER} rows/s +{NUMBER} x training loop\n",
    ),
    (
        "scale.py --rows 3000 --rows 6000 --distinct-tokens 3000 --seconds 0.2 --plot {out}/p.png",
        rf"(Measured\(rows=\d+, .*verified_rows_per_second={NUMBER}\)\n){{2}}",
    ),
    (
        "generation.py --model {teacher} --prompts 3 --samples 2 --new-tokens 8 --batch-size 2"
        " --repeats 1",
        rf"temperature 0, (.*\n)*.* {NUMBER} x generate, 2 at once; {NUMBER} x one at a time\n"
        rf".* 6 of 6 equal\ntemperature 0.8, (.*\n)*.* {NUMBER} x one at a time\n",
    ),
    (
        "generation.py --student 1x16x1 --tokenizer {teacher} --prompts 2 --new-tokens 8"
        " --batch-size 2 --repeats 1 --temperature 0 --no-alone",
        rf"ours, 2 at once: {NUMBER} x generate, 2 at once\n.* 2 of 2 equal\n",
    ),
    (
        "sandbox.py --limit 4 --rounds 1",
        rf"this sandbox +{NUMBER} checks/s\nhuman-eval +{NUMBER} checks/s\nratio +{NUMBER}",
    ),
    ("verdicts.py --out {out} --limit 3 --edits 6", r"agreement \d+/9\n"),
    (
        "workers.py --teacher {teacher} --out {out} --limit 4",
        rf"time ratio {NUMBER}, .* loop alone {NUMBER}; the same bytes: True",
    ),
    (
        "sweep_jobs.py --cache {cache} --out {out} --student 1x16x1",
        rf"time ratio {NUMBER}; the same weights: True",
    ),
]
"""Words after `python benchmarks/`, and what the output must hold."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("words", "promised"), RUNS, ids=[words.split(" --")[0] for words, _ in RUNS]
)
def test_benchmark_prints_its_figures(words, promised, tiny_teacher, tiny_cache, tmp_path):
    places = {"teacher": tiny_teacher, "cache": tiny_cache, "data": EXAMPLES, "out": tmp_path}
    script, *options = words.split()
    done = subprocess.run(
        [sys.executable, FOLDER / script, *(word.format(**places) for word in options)],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(promised, done.stdout), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_a_gpu_would_be_asked_runs_at_tiny_size(tiny_teacher, tmp_path):
    done = subprocess.run(
        [FOLDER / "gpu.sh", "--tiny"], capture_output=True, text=True,
        env={
            **os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path),
            "TOKENIZER": str(tiny_teacher), "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all parts passed\n")
    assert len(re.findall(rf"TFLOP/s \({NUMBER}% of a product's\)", done.stdout)) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_flagship_run_comes_to_its_pages(tiny_teacher, tmp_path):
    sizes = {"LIMIT": "12", "LAYERS": "1", "NEURONS": "16", "SCRATCH": "1x16x1", "STEPS": "2"}
    done = subprocess.run(
        [FOLDER / "flagship.sh"], capture_output=True, text=True,
        env={
            **os.environ, **sizes, "PYTHON": sys.executable, "OUT": str(tmp_path),
            "TEACHER": str(tiny_teacher), "MBPP": str(EXAMPLES), "SAMPLES": "1",
            "LESSONS": "--keep all --examples 0", "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for benchmark in ("humaneval", "mbpp"):
        text = (tmp_path / benchmark / "results.md").read_text()
        names = set(re.findall(r"^\| ((?:layers1|neurons16)[\w-]*) ", text, re.MULTILINE))
        assert names == {
            cut + kind
            for cut in ("layers1", "neurons16")
            for kind in ("", "-fitted", "-cache", "-labels")
        }


def scripts() -> set[str]:
    """The files of the folder that are run, and not only imported."""
    return {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}


def test_every_benchmark_is_run_by_the_test_above():
    assert {words.split()[0] for words, _ in RUNS} == scripts()


def test_the_readme_has_a_line_for_every_benchmark():
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `python benchmarks/(\w+\.py)", text, re.MULTILINE)) == scripts()
