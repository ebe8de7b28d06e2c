import torch

from evaluation.comparison.shared_settings import SharedSettings
from evaluation.config import BenchmarkConfig
from evaluation.generation.tokens import encode_prompt
from evaluation.problems.benchmarks import load_benchmark
from tests.support.tokenizers import line_ends_joined


def test_timed_prompts_end_as_scored_ones_do():
    tokenizer = line_ends_joined()
    timed = {}
    for strip in (None, True):
        benchmark = load_benchmark("humaneval", strip_prompt=strip)
        shared = SharedSettings(
            config=BenchmarkConfig(teacher="T", strip_prompt=strip, latency_prompts=3),
            benchmark=benchmark,
            problems=benchmark.problems,
            device=torch.device("cpu"),
            dtype=torch.float32,
            sandbox="none",
        )
        timed[strip] = shared.timed_prompts(tokenizer)
        assert len(timed[strip]) == 3 * shared.config.latency.batch
        timed[strip, "key"] = shared.cost_key("a model")
    for ids, problem in zip(timed[None], benchmark.problems, strict=False):
        whole = encode_prompt(tokenizer, f"{problem.prompt}\n{problem.canonical_solution}")
        assert ids == whole[: len(ids)]
    assert timed[None] != timed[True] and timed[None, "key"] != timed[True, "key"]
