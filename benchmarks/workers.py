"""How much sooner two workers build a cache than one, on this machine.

    python benchmarks/workers.py --teacher MODEL --out /tmp/workers [--limit 8] [--shard-tokens 400]

Each worker is a process with one thread. The seconds are those of whole processes: starting
Python and loading the teacher, which every worker does for itself, are among them.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from cache.storage.manifest import Manifest

ROOT = Path(__file__).parent.parent


def build(out: Path, num_workers: int, arguments: argparse.Namespace) -> float:
    """Build a cache with some workers at once; seconds until the last one ends."""
    command = [
        sys.executable, "cli.py", "cache-teacher", "--teacher", arguments.teacher,
        "--dataset", arguments.dataset, "--split", "train", "--limit", str(arguments.limit),
        "--shard-tokens", str(arguments.shard_tokens), "--out", str(out),
    ]  # fmt: skip
    started = time.monotonic()
    workers = [
        subprocess.Popen(
            [*command, "--worker", f"{rank}/{num_workers}"],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        )
        for rank in range(num_workers)
    ]  # fmt: skip
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit(f"workers ended with {codes}")
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset", default=str(ROOT / "examples" / "problems.jsonl"))
    parser.add_argument("--out", type=Path, required=True, help="Gets a cache for each try.")
    parser.add_argument("--limit", type=int, default=8, help="Problems.")
    parser.add_argument("--shard-tokens", type=int, default=400)
    arguments = parser.parse_args()
    seconds = {n: build(arguments.out / str(n), n, arguments) for n in (1, 2)}
    manifests = {n: Manifest.read(arguments.out / str(n)) for n in seconds}
    created = {n: manifest.created for n, manifest in manifests.items()}
    for n, taken in seconds.items():
        teacher = created[n]["teacher_seconds"]
        print(f"{n} workers: {taken:.1f} s in all; {teacher:.1f} s of teachers, summed")
    same = manifests[1].files == manifests[2].files  # their hashes
    loops = [created[n]["teacher_seconds"] / n for n in seconds]
    print(
        f"time ratio {seconds[1] / seconds[2]:.2f}, of the teacher's loop alone "
        f"{loops[0] / loops[1]:.2f}; the same bytes: {same}"
    )


if __name__ == "__main__":
    main()
