import subprocess
import sys

import pytest

from evaluation.config import BenchmarkConfig, SandboxLimits
from evaluation.errors import EvaluationError
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": None}, "nothing to evaluate"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"workers": 0}, "workers is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"latency_prompts": 0}, "latency_prompts is 0"),
        ({"latency_tokens": 0}, "latency_tokens is 0"),
        ({"latency_prompt_tokens": 0}, "latency_prompt_tokens is 0"),
        ({"latency_warmup": -1}, "latency_warmup is -1; it must be at least 0"),
        ({"samples": -1}, "samples is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"limit": 0}, "limit is 0"),
        ({"dtype": "int8"}, "dtype is 'int8'; choose one of"),
        ({"wandb": "maybe"}, "wandb is 'maybe'; choose one of"),
        ({"ks": ()}, "ks is empty"),
        ({"ks": (0, 1)}, "ks holds 0"),
        ({"ks": (1, 21)}, "pass@21 needs at least 21 samples per problem, and samples=20"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"temperature": 0.0}, "20 samples would all be the greedy one"),
        ({"timeout": 0}, "timeout is 0; give seconds above 0"),
        ({"memory_mb": 8}, "memory_mb is 8; an interpreter needs at least 64 MiB"),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(fields, message):
    with pytest.raises(EvaluationError, match=message):
        BenchmarkConfig(**{"teacher": "folder", **fields})


def test_greedy_alone_needs_no_sampling_settings():
    config = BenchmarkConfig(teacher="folder", samples=0, temperature=0.0)
    assert config.greedy.signature == "n:1|temp:0|tokens:512"


def test_sampling_signature_names_everything_that_moves_the_score():
    config = BenchmarkConfig(teacher="folder", samples=20, temperature=0.2, seed=3)
    assert config.sampled.signature == "n:20|temp:0.2|top_p:0.95|seed:3|tokens:512"


def test_limits_of_programs_come_from_the_flat_configuration():
    config = BenchmarkConfig(teacher="folder", timeout=1.5, memory_mb=256)
    assert config.limits == SandboxLimits(timeout=1.5, memory_mb=256)


def test_every_field_is_documented_for_the_command_line():
    source = (ROOT / "evaluation" / "config.py").read_text()
    body = source.split("class BenchmarkConfig")[1].split("def __post_init__")[0].splitlines()
    fields = [i for i, line in enumerate(body) if ": " in line and '"""' not in line]
    assert len(fields) >= 25
    assert all(body[i + 1].strip().startswith('"""') for i in fields)


def test_configuration_imports_nothing_heavy():
    code = (
        "import sys, evaluation.config; heavy = {'torch', 'transformers', 'datasets', 'evaluate', "
        "'numpy', 'matplotlib', 'wandb', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
