import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from evaluation.config import LatencySettings
from evaluation.errors import EvaluationError
from evaluation.generation.tokens import encode_prompt
from evaluation.models.latency import Latency, _summarize, measure_latency
from tests.support.tiny_models import EOS, byte_tokenizer, tiny_gpt2

THREE = ["first prompt", "x", "a prompt of more than sixteen bytes"]


def latency(model, texts, **changes):
    options = {"prompts": 3, "new_tokens": 4, "prompt_tokens": 16, "warmup": 1, "batch": 1}
    settings = LatencySettings(**{**options, **changes})
    seen = []
    tokenizer = byte_tokenizer()
    prompts = [encode_prompt(tokenizer, text) for text in texts]
    result = measure_latency(model, tokenizer, prompts, settings, lambda: seen.append(1))
    assert len(seen) == settings.generations
    return result


@pytest.fixture
def watched():
    """A model, and the shapes (rows, prompt tokens, new tokens) of what it generates."""
    model = tiny_gpt2()
    # Any of the first hundred bytes would end the text.
    model.generation_config.eos_token_id = [*range(100), EOS]
    shapes = []
    original = model.generate

    def generate(ids, **options):
        output = original(ids, **options)
        shapes.append((*ids.shape, output.shape[1] - ids.shape[1]))
        return output

    model.generate = generate
    return model, shapes


def test_latency_generates_all_tokens_though_the_model_would_end_at_once(watched):
    model, shapes = watched
    result = latency(model, THREE)
    assert shapes == [(1, 12, 4), (1, 12, 4), (1, 1, 4), (1, 16, 4)]
    assert (result.generations, result.distinct_prompts) == (3, 3)
    assert 0 < result.first_token_ms < result.median_ms <= result.p95_ms
    assert result.tokens_per_second == pytest.approx(4 * 1000 / result.mean_ms)
    assert result.batch == 1 and result.batched is None and result.peak_memory_bytes is None


def test_batches_take_other_prompts_as_long_as_there_are_any(watched):
    model, shapes = watched
    result = latency(model, THREE, batch=2, prompts=2, warmup=0)
    # Two alone; then the first with the second, and the third with the first again.
    assert shapes == [(1, 12, 4), (1, 1, 4), (2, 12, 4), (2, 16, 4)]
    assert (result.generations, result.distinct_prompts, result.batched.batch) == (2, 2, 2)
    assert result.batched.tokens_per_second == pytest.approx(2 * 4 * 1000 / result.batched.mean_ms)


def test_padding_of_a_batch_does_not_change_what_is_written(watched):
    model, _ = watched
    rows = []
    generate = model.generate

    def kept(ids, **options):
        output = generate(ids, **options)
        rows.extend(output[:, ids.shape[1] :].tolist())
        return output

    model.generate = kept
    latency(model, THREE, batch=3, prompts=3, warmup=0)
    alone, together = rows[:3], rows[3:6]
    assert alone == together


def test_the_first_token_is_timed_after_the_prompt_is_read(watched, monkeypatch):
    model, _ = watched
    events = []
    model.register_forward_hook(lambda *_: events.append("forward"))
    monkeypatch.setattr(
        "evaluation.models.latency.synchronize", lambda device: events.append("wait")
    )
    latency(model, ["only one"], prompts=1, warmup=0)
    assert events == ["wait", "forward", "wait", "forward", "forward", "forward", "wait"]


def test_statistics_are_those_of_their_definitions():
    seconds = np.array([[0.1, 1.0], [0.2, 1.4], [0.3, 3.0]])
    times = _summarize(seconds, new_tokens=5, batch=2, peak_memory_bytes=7)
    assert times.mean_ms == pytest.approx(1800) and times.median_ms == pytest.approx(1400)
    assert times.p95_ms == pytest.approx(1400 + 0.9 * 1600)
    assert times.first_token_ms == pytest.approx(200)
    assert times.per_token_ms == pytest.approx(300)  # 0.9 s, 1.2 s and 2.7 s for four tokens
    assert times.tokens_per_second == pytest.approx(3 * 2 * 5 / 5.4)
    assert times.peak_memory_bytes == 7


def test_one_new_token_has_no_time_for_further_ones():
    result = latency(tiny_gpt2(), THREE, new_tokens=1)
    assert result.per_token_ms is None and result.per_token_p95_ms is None


def test_latency_is_read_back_from_json():
    result = latency(tiny_gpt2(), THREE, batch=2)
    assert Latency.from_json(json.loads(json.dumps(asdict(result)))) == result


def test_latency_on_few_prompts_says_so():
    assert latency(tiny_gpt2(), ["only one"]).distinct_prompts == 1


def test_latency_that_does_not_fit_the_positions_is_refused():
    with pytest.raises(EvaluationError, match="has 10 positions.*latency_prompt_tokens .to 6."):
        latency(tiny_gpt2(positions=10), ["a prompt of many bytes"])


def test_latency_that_does_not_fit_the_memory_is_refused():
    model = tiny_gpt2()

    def generate(ids, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.generate = generate
    with pytest.raises(EvaluationError, match="generation of 1 prompts.*Lower latency_batch"):
        latency(model, THREE)
