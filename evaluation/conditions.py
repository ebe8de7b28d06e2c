"""What is the same for every model of a comparison, in words and as file keys."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from evaluation.config import BenchmarkConfig, GenerationSettings
from evaluation.latency import Latency
from evaluation.problems import Benchmark, BenchmarkProblem
from evaluation.rows import ModelRow


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same for every model of a comparison."""

    config: BenchmarkConfig
    benchmark: Benchmark
    problems: tuple[BenchmarkProblem, ...]
    """The problems scored: the benchmark's first `limit`."""
    device: torch.device
    dtype: torch.dtype
    sandbox: str
    """Layers of the sandbox on this machine."""

    @property
    def device_name(self) -> str:
        """The device with the hardware's own name where there is one."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        if self.device.type == "cpu":
            return f"cpu ({torch.get_num_threads()} threads)"
        return str(self.device)

    @property
    def dtype_name(self) -> str:
        """As in `float32`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def _prompt_kind(self) -> str:
        if self.benchmark.name == "mbpp":
            return self.config.template
        return "stripped" if self.config.strip_prompt else "as-is"

    def signature(self, settings: GenerationSettings) -> str:
        """What a score under these settings means, in one line."""
        config = self.config
        return (
            f"{self.benchmark.name}|problems:{len(self.problems)}|prompt:{self._prompt_kind}"
            f"|{settings.signature}"
            f"|timeout:{config.timeout:g}s|memory:{config.memory_mb}MiB|sandbox:{self.sandbox}"
            f"|dtype:{self.dtype_name}|device:{self.device.type}"
        )

    def row_key(self, identity: str) -> str:
        """Hash of all that a row depends on."""
        config = self.config
        parts: list[Any] = [
            [field.name for field in fields(ModelRow)],  # rows of other columns do not serve
            identity,
            [asdict(problem) for problem in self.problems],
            self.signature(config.greedy),
            self.cost_key(identity),
        ]
        if config.samples:
            parts += [self.signature(config.sampled), config.ks]
        return hash_of(parts)

    def cost_key(self, identity: str) -> str:
        """Hash of all that latency and size depend on: no benchmark score, no sandbox."""
        settings = self.config.latency
        num_prompts = settings.prompts * settings.batch
        return hash_of(
            [
                identity,
                self.device_name,
                self.dtype_name,
                settings.signature,
                [field.name for field in fields(Latency)],
                [problem.prompt for problem in self.benchmark.problems[:num_prompts]],
            ]
        )


def hash_of(parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for anything JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
