"""What is the same for every model of a comparison, in words and as file keys."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from cache.data.templates import opening_of
from cache.machine.precision import dtype_name
from evaluation.agreement.held_out import HeldOut
from evaluation.agreement.scores import AgreementScores
from evaluation.comparison.model_row import ModelRow
from evaluation.config import BenchmarkConfig, GenerationSettings
from evaluation.generation.tokens import encode_opening
from evaluation.models.latency import Latency
from evaluation.problems.benchmarks import Benchmark, BenchmarkProblem


@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """What is the same for every model of a comparison."""

    config: BenchmarkConfig
    benchmark: Benchmark
    problems: tuple[BenchmarkProblem, ...]
    """The problems scored: the benchmark's first `limit`."""
    device: torch.device
    dtype: torch.dtype
    sandbox: str
    """Layers of the sandbox on this machine."""
    held_out: HeldOut | None = None
    """Documents that agreement with the teacher is measured on; None: it is not."""
    live_teacher: str | None = None
    """Name and weights of the teacher they are compared with; None: the cache's targets."""

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
        return dtype_name(self.dtype)

    @property
    def _prompt_kind(self) -> str:
        end = {None: "natural", True: "stripped", False: "as-is"}[self.config.strip_prompt]
        if not self.benchmark.is_mbpp:
            return end
        template = self.config.template
        return f"{template}-{end}" if opening_of(template) else template

    def signature(self, settings: GenerationSettings) -> str:
        """What a score under these settings means, in one line."""
        config = self.config
        return (
            f"{self.benchmark.name}|problems:{len(self.problems)}|prompt:{self._prompt_kind}"
            f"|{settings.signature}"
            f"|{config.limits.signature}|sandbox:{self.sandbox}"
            f"|dtype:{self.dtype_name}|device:{self.device.type}"
        )

    @property
    def agreement_signature(self) -> str | None:
        """What agreement with the teacher means, in one line; None where it is not measured."""
        if self.held_out is None:
            return None
        reference = f"live:{self.live_teacher}" if self.live_teacher is not None else "cache"
        if self.live_teacher is None and self.held_out.cache_kl is not None:
            reference += f" (KL of the teacher to it {self.held_out.cache_kl:.2g})"
        return (
            f"reference:{reference}|T:1|{self.held_out.signature}|dtype:{self.dtype_name}"
            f"|device:{self.device.type}"
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
            self.agreement_signature,
            [field.name for field in fields(AgreementScores)],
        ]
        if config.samples:
            parts += [self.signature(config.sampled), config.ks]
        return hash_of(parts)

    def cost_key(self, identity: str) -> str:
        """Hash of all that latency and size depend on: no benchmark score, no sandbox."""
        return hash_of(
            [
                identity,
                self.device_name,
                self.dtype_name,
                self.config.latency.signature,
                [field.name for field in fields(Latency)],
                self.timed_texts,
            ]
        )

    @property
    def timed_texts(self) -> list[tuple[str, str]]:
        """Prompts that latency is measured on, each with the opening of its answers."""
        problems = self.benchmark.problems[: self.config.latency.num_prompts]
        return [(problem.prompt, problem.opening) for problem in problems]

    def timed_prompts(self, tokenizer: Any) -> list[tuple[int, ...]]:
        """Token ids of `timed_texts`, as they are when the problems are scored."""
        return [encode_opening(tokenizer, *texts)[0] for texts in self.timed_texts]


def hash_of(parts: Any) -> str:
    """Sixteen hexadecimal digits that stand for anything JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
