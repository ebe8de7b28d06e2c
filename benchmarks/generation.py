"""Generated tokens a second: our batched loop against transformers' `generate`, a prompt at a time.

Both sides complete the same HumanEval prompts in one process, with the same number of new tokens
at most, the same stop sequences and settings, each after a warm-up. Tokens are counted up to the
end of each completion, so a row that only waits for others counts nothing.

    python benchmarks/generation.py --student 6x512x8 --tokenizer bigcode/starcoder2-3b
    python benchmarks/generation.py --model bigcode/starcoder2-3b --samples 4 --temperature 0.8
"""

import time
from dataclasses import replace

import click
import torch

from cache.teacher.load import load_causal_lm, load_tokenizer
from distill.learning.student import build_student
from distill.settings.shapes import parse_shape
from evaluation.config import GenerationSettings
from evaluation.generation.generate import Request, generate_each
from evaluation.generation.tokens import encode_prompt, padding_id
from evaluation.models.latency import synchronize
from evaluation.models.sources import resolve_device
from evaluation.problems.benchmarks import load_benchmark


def load(model: str | None, student: str, tokenizer: str | None, device: torch.device):
    """A model and its tokenizer; without a model, a student of random weights."""
    if model is not None:
        loaded = load_causal_lm(model, dtype=torch.float32, device_map=None)
        return loaded.to(device), load_tokenizer(model)
    if tokenizer is None:
        raise click.UsageError("give --model, or a student's --tokenizer")
    words = load_tokenizer(tokenizer)
    torch.manual_seed(0)
    built: torch.nn.Module = build_student(
        parse_shape(student), vocab_size=len(words), max_length=512, tokenizer=words
    )
    return built.to(device).eval(), words


def run_batched(model, tokenizer, problems, settings, batch: int) -> int:
    """Tokens generated for all problems, each `settings.samples` times, `batch` at once."""
    requests = [
        Request(
            task_id=problem.task_id,
            sample=sample,
            prompt_ids=encode_prompt(tokenizer, problem.prompt),
            stop=problem.stop,
        )
        for problem in problems
        for sample in range(settings.samples)
    ]
    requests.sort(key=lambda request: -len(request.prompt_ids))
    done = generate_each(model, tokenizer, requests, settings, batch_size=batch)
    return sum(completion.num_tokens for _, completion in done)


@torch.inference_mode()
def run_alone(model, tokenizer, problems, settings) -> int:
    """The same with transformers' own loop, a prompt at a time."""
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if settings.temperature > 0:
        sampling |= {"do_sample": True, "temperature": settings.temperature}
        sampling |= {"top_p": settings.top_p}
    total = 0
    for problem in problems:
        prompt = torch.tensor([encode_prompt(tokenizer, problem.prompt)], device=model.device)
        stops = {"stop_strings": list(problem.stop), "tokenizer": tokenizer}
        for _ in range(settings.samples):
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=settings.max_new_tokens,
                pad_token_id=padding_id(tokenizer),
                **(stops if problem.stop else {}),
                **sampling,
            )
            total += output.shape[1] - prompt.shape[1]
    return total


def measure(name: str, run, device: torch.device) -> float:
    """Tokens a second of a run, printed with what it made."""
    synchronize(device)
    start = time.perf_counter()
    tokens = run()
    synchronize(device)
    seconds = time.perf_counter() - start
    print(f"{name:40s} {tokens:7,} tokens {seconds:8.1f} s {tokens / seconds:9.1f} tokens/s")
    return tokens / seconds


@click.command()
@click.option("--model", help="Hub id, folder or .gguf file; without: a student.")
@click.option("--student", default="6x512x8", help="Shape of a student with random weights.")
@click.option("--tokenizer", help="Of the student: hub id, folder or .gguf file.")
@click.option("--prompts", default=16, help="Of HumanEval, from its start.")
@click.option("--samples", default=1, help="Completions of each.")
@click.option("--temperature", default=0.0)
@click.option("--new-tokens", default=128, help="At most.")
@click.option("--batch-size", "batch_sizes", default=(16,), multiple=True)
@click.option("--device", default="auto")
def main(model, student, tokenizer, prompts, samples, temperature, new_tokens, batch_sizes, device):
    """Print tokens/s of both sides and their ratio."""
    place = resolve_device(device)
    loaded, words = load(model, student, tokenizer, place)
    problems = load_benchmark("humaneval").problems[:prompts]
    settings = GenerationSettings(
        samples=samples,
        temperature=temperature,
        top_p=0.95,
        max_new_tokens=new_tokens,
        seed=0,
    )
    short = replace(settings, max_new_tokens=4, samples=1)
    run_alone(loaded, words, problems[:1], short)
    run_batched(loaded, words, problems[:2], short, 2)
    print(f"{model or student} on {place}, {torch.get_num_threads()} threads")
    alone = measure(
        "transformers.generate, one at a time",
        lambda: run_alone(loaded, words, problems, settings),
        place,
    )
    for batch in batch_sizes:
        ours = measure(
            f"ours, {batch} at once",
            lambda batch=batch: run_batched(loaded, words, problems, settings, batch),
            place,
        )
        print(f"{'':40s} {ours / alone:.2f} times as fast")


if __name__ == "__main__":
    main()
