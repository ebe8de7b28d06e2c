"""How much sooner two processes train a sweep's students than one, on this machine.

    python benchmarks/sweep_jobs.py --cache CACHE --out /tmp/sweep [--student 2x128x2] [--epochs 1]

Each process has one thread. The seconds are those of the whole command: starting Python, which
every process does for itself, is among them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPES = """
defaults: {{student: {student}, epochs: {epochs}, temperature: 2, accumulate: 1, lr: 1.0e-3,
  sample_prompts: 0}}
recipes: [{{name: low, alpha: 0.3}}, {{name: high, alpha: 0.7}}]
"""


def sweep(out: Path, jobs: int, arguments: argparse.Namespace) -> float:
    """Train both students, some at a time; seconds of the whole command."""
    out.mkdir(parents=True)
    recipes = out / "recipes.yaml"
    recipes.write_text(RECIPES.format(student=arguments.student, epochs=arguments.epochs))
    started = time.monotonic()
    subprocess.run(
        [
            sys.executable, "cli.py", "sweep", "--cache", str(arguments.cache), "--recipes",
            str(recipes), "--out", str(out / "runs"), "--jobs", str(jobs), "--wandb", "disabled",
        ],
        cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Gets a sweep for each try.")
    parser.add_argument("--student", default="2x128x2")
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    outs = {jobs: arguments.out / str(jobs) for jobs in (1, 2)}
    seconds = {jobs: sweep(out, jobs, arguments) for jobs, out in outs.items()}
    for jobs, taken in seconds.items():
        print(f"--jobs {jobs}: {taken:.1f} s in all")
    weights = {
        jobs: [(out / "runs" / name / "model.safetensors").read_bytes() for name in ("low", "high")]
        for jobs, out in outs.items()
    }
    print(f"time ratio {seconds[1] / seconds[2]:.2f}; the same weights: {weights[1] == weights[2]}")


if __name__ == "__main__":
    main()
