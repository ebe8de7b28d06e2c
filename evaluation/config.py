"""What an evaluation is asked to do. Imports nothing heavy: the command line is built from this."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from cache.machine.choices import PRECISIONS, WANDB_MODES
from evaluation.errors import EvaluationError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
EXTRACTIONS = ("nothing", "code")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How completions are drawn from a model; the same for every model of a comparison."""

    samples: int
    """Completions per problem."""
    temperature: float
    """0 is greedy decoding."""
    top_p: float
    """Nucleus: the smallest set of tokens with at least this probability is sampled from."""
    max_new_tokens: int
    """Upper bound of new tokens; a model with fewer positions left stops there."""
    seed: int
    """Seed of the random numbers, mixed with the task and the sample number."""

    @property
    def signature(self) -> str:
        """The settings in one line, for results and file keys."""
        top_p = f"|top_p:{self.top_p:g}|seed:{self.seed}" if self.temperature > 0 else ""
        return f"n:{self.samples}|temp:{self.temperature:g}{top_p}|tokens:{self.max_new_tokens}"


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What one generated program may use."""

    timeout: float = 3.0
    """Wall-clock seconds, counted from the moment the confined interpreter is ready."""
    memory_mb: int = 1024
    """Address space of the interpreter, in MiB."""
    allow_weak: bool = False
    """Run programs where the sandbox lacks layers, too."""

    @property
    def signature(self) -> str:
        """The limits in one line, for results."""
        return f"timeout:{self.timeout:g}s|memory:{self.memory_mb}MiB"

    def __post_init__(self) -> None:
        require(self.timeout > 0, f"timeout is {self.timeout}; give seconds above 0")
        require(
            self.memory_mb >= 64,
            f"memory_mb is {self.memory_mb}; an interpreter needs at least 64 MiB",
        )


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How the time of one generation is measured; the same for every model."""

    prompts: int
    """Timed generations, each on another prompt."""
    new_tokens: int
    """New tokens of every generation: exactly this many, end-of-text or not."""
    prompt_tokens: int
    """Longest prompt timed; longer ones keep their last tokens."""
    warmup: int
    """Generations before the clock starts."""
    batch: int
    """Prompts at once in the batched generations, which are as many again; 1: none."""

    @property
    def generations(self) -> int:
        """Timed generations in all."""
        return self.prompts * (2 if self.batch > 1 else 1)

    @property
    def num_prompts(self) -> int:
        """Prompts used, where the benchmark has as many."""
        return self.prompts * self.batch

    @property
    def signature(self) -> str:
        """The settings in one line, for results and file keys."""
        return (
            f"prompts:{self.prompts}|new_tokens:{self.new_tokens}"
            f"|prompt_tokens:<={self.prompt_tokens}|warmup:{self.warmup}"
            f"|batch:{'1' if self.batch == 1 else f'1,{self.batch}'}"
        )


@dataclass(frozen=True, kw_only=True)
class RunningConfig:
    """How generated programs are run, whatever is asked of them."""

    timeout: float = 3.0
    """Seconds a generated program may run."""
    memory_mb: int = 1024
    """MiB a generated program may use."""
    allow_weak_sandbox: bool = False
    """Run programs where the sandbox lacks layers, too: on a machine you can lose."""
    workers: int = field(default_factory=lambda: max(1, os.cpu_count() or 1))
    """Programs run at once."""
    self_check: bool = True
    """First prove the problems: canonical solutions pass, and trivial bodies fail."""

    def __post_init__(self) -> None:
        require_at_least("workers", self.workers, 1)
        SandboxLimits(timeout=self.timeout, memory_mb=self.memory_mb)

    @property
    def limits(self) -> SandboxLimits:
        """Limits of every generated program."""
        return SandboxLimits(
            timeout=self.timeout, memory_mb=self.memory_mb, allow_weak=self.allow_weak_sandbox
        )


@dataclass(frozen=True, kw_only=True)
class JudgingConfig(RunningConfig):
    """Which problems programs are judged on, and how: the same for models and sample files."""

    benchmark: str = "humaneval"
    """humaneval, mbpp, or a JSON-lines file (.jsonl or .jsonl.gz) in either schema."""
    dataset: str | None = None
    """Where the problems come from: a hub id or a JSON-lines file; absent: the benchmark's own."""
    template: str = "instruction"
    """Prompt template of MBPP problems; use the one the students were trained with."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(JudgingConfig):
    """One comparison: a teacher, any number of checkpoints, one benchmark."""

    checkpoints: tuple[Path, ...] = ()
    """Folders of students (Hugging Face format)."""
    teacher: str | None = None
    """Hub id, folder or .gguf file of the live teacher; absent: no ratios."""
    revision: str | None = None
    """Commit, tag or branch of the teacher on the hub."""
    strip_prompt: bool | None = None
    """Whether models read prompts without the line's end behind a docstring; absent: where their
    tokenizer joins it to what comes next."""
    limit: int | None = None
    """Only the first problems; absent: all."""
    cache: Path | None = None
    """Cache of the students: its training documents are searched for the problems, and on its
    validation documents agreement with the teacher is measured."""
    agreement_documents: int = 200
    """Agreement is measured on this many of its validation documents at most; 0: not at all."""
    live_agreement: bool = False
    """Compare with the live teacher's own logits instead of the targets in the cache."""
    as_draft: int | None = None
    """Also time the teacher with each student as its draft, which writes this many tokens before
    each of the teacher's passes; absent: not."""
    samples: int = 20
    """Completions per problem for pass@k (n); 0 measures greedy pass@1 alone."""
    temperature: float = 0.2
    """Temperature of the samples."""
    top_p: float = 0.95
    """Nucleus of the samples."""
    ks: tuple[int, ...] = (1, 10)
    """The k of every pass@k reported; none may exceed the number of samples."""
    max_new_tokens: int = 512
    """Upper bound of new tokens; a model stops earlier where its positions end."""
    batch_size: int = 16
    """Completions generated at once."""
    latency_prompts: int = 20
    """Timed generations, each on another prompt."""
    latency_tokens: int = 64
    """New tokens of every timed generation."""
    latency_prompt_tokens: int = 256
    """Longest prompt timed, in tokens; longer ones keep their last tokens."""
    latency_warmup: int = 2
    """Generations before the clock starts."""
    latency_batch: int = 8
    """Prompts at once in the timed generations of batches; 1: one at a time alone."""
    dtype: str = "auto"
    """auto, fp32, bf16 or fp16, the same for every model; auto is half precision on CUDA."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, the same for every model."""
    seed: int = 0
    """Seed of the samples, the same for every model."""
    wandb: str = "disabled"
    """disabled, offline or online: also log the table to Weights & Biases."""
    wandb_project: str = "logitcache"
    """Project the table is logged to."""
    out: Path = Path("evaluation-results")
    """Folder of the results; the same command on the same folder resumes where it stopped."""

    def __post_init__(self) -> None:
        require(
            bool(self.checkpoints) or self.teacher is not None,
            "nothing to evaluate: give checkpoints (--checkpoints runs/*), a teacher, or both",
        )
        for name in ("batch_size", "max_new_tokens", "latency_prompts"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("latency_tokens", "latency_prompt_tokens", "latency_batch"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("samples", "seed", "latency_warmup", "agreement_documents"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("limit", "as_draft"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        require(self.dtype in PRECISIONS, f"dtype is {self.dtype!r}; choose one of {PRECISIONS}")
        require(self.wandb in WANDB_MODES, f"wandb is {self.wandb!r}; choose one of {WANDB_MODES}")
        require(
            not self.live_agreement or (self.cache is not None and self.teacher is not None),
            "live_agreement needs a teacher (--teacher) and the documents of a cache (--cache)",
        )
        require(
            self.as_draft is None or self.teacher is not None,
            "as_draft needs the teacher that students draft for (--teacher)",
        )
        self._check_sampling()
        super().__post_init__()

    def _check_sampling(self) -> None:
        if self.samples == 0:
            return
        require(bool(self.ks), "ks is empty; give at least one k, or samples=0 for greedy alone")
        require(min(self.ks) >= 1, f"ks holds {min(self.ks)}; every k must be at least 1")
        require(
            max(self.ks) <= self.samples,
            f"pass@{max(self.ks)} needs at least {max(self.ks)} samples per problem, and "
            f"samples={self.samples}; raise samples or drop that k",
        )
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1")
        require(
            self.temperature > 0,
            f"temperature is {self.temperature}: {self.samples} samples would all be the greedy "
            "one. Give a temperature above 0, or samples=0 for greedy pass@1 alone",
        )

    @property
    def greedy(self) -> GenerationSettings:
        """Settings of greedy pass@1 and of BLEU."""
        return GenerationSettings(
            samples=1, temperature=0.0, top_p=1.0, max_new_tokens=self.max_new_tokens, seed=0
        )

    @property
    def sampled(self) -> GenerationSettings:
        """Settings of sampled pass@k."""
        return GenerationSettings(
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    @property
    def latency(self) -> LatencySettings:
        """Settings of the latency measurement."""
        return LatencySettings(
            prompts=self.latency_prompts,
            new_tokens=self.latency_tokens,
            prompt_tokens=self.latency_prompt_tokens,
            warmup=self.latency_warmup,
            batch=self.latency_batch,
        )


def require(condition: bool, message: str) -> None:
    """Raise EvaluationError with the message unless the condition holds."""
    if not condition:
        raise EvaluationError(message)


def require_at_least(name: str, value: int, least: int) -> None:
    """Raise EvaluationError unless the named setting is at least this large."""
    require(value >= least, f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(JudgingConfig):
    """Completions that are there, judged without a model."""

    samples: Path
    """JSON lines with `task_id` and `completion` or `solution`, in plain text or .gz, or a JSON
    list of generations."""
    ks: tuple[int, ...] = ()
    """The k of every pass@k; absent: 1, 10 and 100 as far as the samples reach."""
    extract: str = "nothing"
    """code: judge the code in a chat model's answer, without prose and Markdown around it."""
    partial: bool = False
    """Score only the problems in the file; else every problem must be there."""

    def __post_init__(self) -> None:
        require(
            self.samples.name.endswith(SUFFIXES),
            f"samples {self.samples} is no JSON file by its name; need {', '.join(SUFFIXES)}",
        )
        require(
            self.extract in EXTRACTIONS,
            f"extract is {self.extract!r}; choose one of {EXTRACTIONS}",
        )
        if self.ks:
            require_at_least("k", min(self.ks), 1)
        super().__post_init__()

    @property
    def stem(self) -> Path:
        """The sample file's path without its suffixes; results get this name."""
        name = self.samples.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
        return self.samples.with_name(name)
