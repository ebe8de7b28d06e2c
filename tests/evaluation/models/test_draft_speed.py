import pytest
import torch

from evaluation.config import LatencySettings
from evaluation.generation.tokens import encode_prompt
from evaluation.models.draft_speed import measure_draft, why_no_draft
from tests.support.tiny_models import byte_tokenizer, gpt2, tiny_gpt2

PROMPTS = ["def add(a, b):", "x = 1", "import math"]
SETTINGS = LatencySettings(prompts=3, new_tokens=13, prompt_tokens=16, warmup=1, batch=1)


@pytest.fixture
def teacher():
    model = tiny_gpt2()
    model.generation_config.eos_token_id = None  # so that all have 13 new tokens
    return model


def measured(teacher, student, drafted):
    seen = []
    tokenizer = byte_tokenizer()
    prompts = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    speed = measure_draft(
        teacher, student, tokenizer, prompts, SETTINGS, drafted, lambda: seen.append(1)
    )
    assert len(seen) == speed.generations == 3
    return speed


@pytest.mark.parametrize(("drafted", "passes"), [(3, 4), (6, 2)])
def test_a_draft_that_is_the_teacher_itself_is_taken_whole(teacher, drafted, passes):
    """13 tokens: passes of γ + 1, the last of which may need fewer."""
    twin = tiny_gpt2()
    speed = measured(teacher, twin, drafted)
    assert speed.same == 3
    assert speed.tokens_per_pass == pytest.approx(13 / passes)


def test_a_bad_draft_changes_nothing_of_what_is_written(teacher):
    other = tiny_gpt2(seed=5)
    speed = measured(teacher, other, 4)
    assert speed.same == 3
    assert 1 <= speed.tokens_per_pass < 1.5


def test_what_cannot_draft_is_told(teacher):
    tokenizer, other = byte_tokenizer(), byte_tokenizer()
    assert why_no_draft(teacher, tiny_gpt2(), (tokenizer, tokenizer), 29) is None
    why = why_no_draft(teacher, tiny_gpt2(positions=20), (tokenizer, tokenizer), 29)
    assert why == "it has 20 positions, and a timed generation needs 29"
    why = why_no_draft(teacher, gpt2(), (tokenizer, tokenizer), 29)
    assert why == "its vocabulary has 384 tokens and the teacher's 257"
    other.add_tokens(["another"])
    assert "another meaning" in why_no_draft(teacher, tiny_gpt2(), (tokenizer, other), 29)
    assert torch.is_grad_enabled()
