"""Generated tokens a second: our loop against transformers' `generate`, batched and alone.

All sides complete the same HumanEval prompts in one process, with the same stop strings, limit of
new tokens and sampling: our loop, in which waiting prompts take the places of ended rows;
`generate` on batches of the same size, sorted by length; and `generate` on one prompt at a time.
They run in turns after a warm-up, and the best of the repeats counts. Tokens are counted up to the
end of each completion, so a row that only waits for others counts nothing.

Greedy completions of both batched sides must be the same, but where the two best tokens are as
good as equal: other batches round otherwise. Any other difference ends the benchmark. A student of
random weights never writes a stop string, so that its rows all end together; with a real model
they do not.

    python benchmarks/generation.py --student 6x512x8 --tokenizer bigcode/starcoder2-3b
    python benchmarks/generation.py --model bigcode/starcoder2-3b --samples 4 --precision bf16
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import click
import torch
from library_generation import Library

from cache.machine.choices import PRECISIONS
from cache.machine.precision import resolve_dtype
from cache.teacher.load import load_causal_lm, load_tokenizer
from distill.learning.student import build_student
from distill.settings.shapes import parse_shape
from evaluation.config import GenerationSettings
from evaluation.generation.generate import Completion, Request, generate_each
from evaluation.generation.tokens import encode_opening, position_limit
from evaluation.models.latency import synchronize
from evaluation.models.sources import resolve_device
from evaluation.problems.benchmarks import BenchmarkProblem, load_benchmark

NEAR_TIE = {torch.float32: 1e-3}
"""Logits no further apart than this may change places with the batch; 0.5 in half precision."""


def load(
    model: str | None, student: str, tokenizer: str | None, dtype: torch.dtype, device: torch.device
):
    """A model and its tokenizer; without a model, a student of random weights."""
    if model is not None:
        loaded = load_causal_lm(model, dtype=dtype, device_map=None)
        return loaded.to(device), load_tokenizer(model)
    if tokenizer is None:
        raise click.UsageError("give --model, or a student's --tokenizer")
    words = load_tokenizer(tokenizer)
    torch.manual_seed(0)
    built: torch.nn.Module = build_student(
        parse_shape(student), vocab_size=len(words), max_length=512, tokenizer=words
    )
    return built.to(device, dtype).eval(), words


def make_requests(model, tokenizer, prompts: int, samples: int, new_tokens: int) -> list[Request]:
    """Completions of HumanEval's first problems, longest prompt first.

    Problems whose prompts leave no room for all new tokens are passed over: `generate` would
    read positions that a student does not have.
    """
    limit = position_limit(model) or sys.maxsize
    chosen: list[tuple[BenchmarkProblem, tuple[int, ...], str]] = []
    for problem in load_benchmark("humaneval").problems:
        prompt_ids, begun = encode_opening(tokenizer, problem.prompt, problem.opening)
        if len(prompt_ids) + new_tokens <= limit and len(chosen) < prompts:
            chosen.append((problem, prompt_ids, begun))
    if not chosen:
        raise click.UsageError(f"{limit} positions leave no room for {new_tokens} new tokens")
    requests = [
        Request(
            task_id=problem.task_id, sample=sample, prompt_ids=ids, stop=problem.stop, begun=begun
        )
        for problem, ids, begun in chosen
        for sample in range(samples)
    ]
    return sorted(requests, key=lambda request: -len(request.prompt_ids))


def run_sides(sides: dict[str, Callable[[], list]], repeats: int, device: torch.device):
    """Best seconds of each side, and what it wrote last; sides take turns."""
    best, written = dict.fromkeys(sides, float("inf")), {}
    for _ in range(repeats):
        for name, run in sides.items():
            synchronize(device)
            started = time.perf_counter()
            written[name] = run()
            synchronize(device)
            best[name] = min(best[name], time.perf_counter() - started)
    return best, written


def measure(model, tokenizer, requests, settings, batches, repeats: int, alone: bool) -> bool:
    """Print tokens/s and ratios under these settings; whether greedy completions agree."""
    library = Library(model, tokenizer, settings, requests[0].stop)

    def ours(batch: int) -> list[Completion]:
        done = dict(generate_each(model, tokenizer, requests, settings, batch_size=batch))
        return [done[place] for place in range(len(requests))]

    def theirs(batch: int) -> list[list[int]]:
        return library.token_ids(requests, batch)

    sides: dict[str, Callable[[], list]] = {}
    if alone:
        sides["generate, one at a time"] = partial(theirs, 1)
    for batch in batches:
        sides[f"generate, {batch} at once"] = partial(theirs, batch)
        sides[f"ours, {batch} at once"] = partial(ours, batch)
    best, written = run_sides(sides, repeats, model.device)
    print(f"temperature {settings.temperature:g}, {len(requests)} completions, best of {repeats}")
    completions: dict[str, list[Completion]] = {}
    rates = {}
    for name, rows in written.items():
        if name.startswith("generate"):
            zipped = enumerate(zip(requests, rows, strict=True))
            rows = [library.completion(place, request, ids) for place, (request, ids) in zipped]
        completions[name], tokens = rows, sum(row.num_tokens for row in rows)
        rates[name] = tokens / best[name]
        print(f"  {name:28s} {tokens:7,} tokens {best[name]:8.1f} s {rates[name]:9.1f} tokens/s")
    agreed = True
    for batch in batches:
        mine, other = f"ours, {batch} at once", f"generate, {batch} at once"
        line = f"  {mine}: {rates[mine] / rates[other]:.2f} x generate, {batch} at once"
        if alone:
            line += f"; {rates[mine] / rates['generate, one at a time']:.2f} x one at a time"
        print(line)
        if settings.temperature == 0:
            pairs = zip(
                requests, completions[mine], completions[other], written[other], strict=True
            )
            agreed &= compare(library, batch, list(pairs))
    return agreed


def compare(library: Library, batch: int, pairs: list) -> bool:
    """Print every completion that differs and why; whether all of those are near ties."""
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    print(f"  greedy, {batch} at once: {len(pairs) - len(differing)} of {len(pairs)} equal")
    near_tie, agreed = NEAR_TIE.get(library.model.dtype, 0.5), True
    for request, mine, _, token_ids in differing:
        gap = library.logit_gap(request, token_ids, mine.raw)
        reason = "the same tokens, ended elsewhere"
        if gap is not None:
            reason = f"the two best logits are {gap:.2g} apart"
        print(f"    {request.task_id} sample {request.sample}: {reason}")
        agreed &= gap is not None and gap <= near_tie
    return agreed


@click.command()
@click.option("--model", help="Hub id, folder or .gguf file; without: a student.")
@click.option("--student", default="6x512x8", help="Shape of a student with random weights.")
@click.option("--tokenizer", help="Of the student: hub id, folder or .gguf file.")
@click.option("--prompts", default=16, help="Of HumanEval, from its start.")
@click.option("--samples", default=1, help="Completions of each.")
@click.option("--temperature", "temperatures", default=(0.0, 0.8), multiple=True)
@click.option("--top-p", default=0.95)
@click.option("--new-tokens", default=128, help="At most.")
@click.option("--batch-size", "batch_sizes", default=(16,), multiple=True)
@click.option("--repeats", default=2)
@click.option("--alone/--no-alone", default=True, help="Also `generate` one prompt at a time.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32")
@click.option("--device", default="auto")
def main(
    model, student, tokenizer, prompts, samples, temperatures, top_p, new_tokens, batch_sizes,
    repeats, alone, precision, device,
):  # fmt: skip
    """Print tokens/s of all sides and their ratios."""
    place = resolve_device(device)
    loaded, words = load(model, student, tokenizer, resolve_dtype(precision, place), place)
    requests = make_requests(loaded, words, prompts, samples, new_tokens)
    print(
        f"{model or student} in {loaded.dtype} on {place}, {torch.get_num_threads()} threads, "
        f"at most {new_tokens} new tokens"
    )
    agreed = True
    for temperature in temperatures:
        settings = GenerationSettings(
            samples=samples, temperature=temperature, top_p=top_p, max_new_tokens=new_tokens, seed=0
        )
        short = replace(settings, max_new_tokens=4)
        Library(loaded, words, short, requests[0].stop).token_ids(requests[:2], 2)
        list(generate_each(loaded, words, requests[:2], short, batch_size=2))
        agreed &= measure(loaded, words, requests, settings, batch_sizes, repeats, alone)
    if not agreed:
        sys.exit("greedy completions differ by more than rounding")


if __name__ == "__main__":
    main()
