"""What lessons are asked for. Imports nothing heavy: the command line is built from this."""

from dataclasses import dataclass
from pathlib import Path

from cache.data.problems import DEFAULT_DATASET
from cache.data.templates import CHAT
from cache.machine.choices import PRECISIONS
from evaluation.config import GenerationSettings, RunningConfig, require, require_at_least

SPLITS = ("train", "validation")
"""What is written for: never the problems that models are scored on."""
TEMPLATES = ("auto", CHAT, "instruction", "docstring", "signature")
ANSWERS = ("fence", "free")
KEEP = ("passing", "failing", "all")
MAX_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class LessonsConfig(RunningConfig):
    """Who writes solutions of which problems, how many, and which of them are kept."""

    out: Path
    """JSON-lines file of the lessons; what belongs to it stands beside it."""
    teacher: str
    """Hub id, folder or .gguf file of the model that will read the lessons into a cache."""
    revision: str | None = None
    """Branch, tag or commit of the teacher on the hub."""
    writer: str | None = None
    """Folder of the student that writes; None: the teacher does."""
    dataset: str = DEFAULT_DATASET
    """Hub id, or a JSON-lines file in MBPP's schema."""
    splits: tuple[str, ...] = ("train",)
    """Splits whose problems are written for."""
    limit: int | None = None
    """Only the first problems of each split."""
    invent: int = 0
    """New problems that the model is asked for, made after the dataset's own, and that are then
    solved in their place; 0: none."""
    samples: int = 8
    """Solutions asked for of each problem."""
    temperature: float = 0.8
    """Of the samples; 0 is greedy decoding, which has one sample."""
    top_p: float = 0.95
    """Nucleus of the samples."""
    max_new_tokens: int = 512
    """Upper bound of new tokens."""
    seed: int = 0
    """Mixed with the problem and the sample number."""
    stops: tuple[str, ...] = ()
    """Texts that end a solution, beside those of the template."""
    template: str = "auto"
    """How problems are asked; `auto`: through the teacher's chat template where it has one, else
    `instruction`."""
    answer: str = "fence"
    """Of chat: `fence` begins the answer with that of a code block, as documents have it, and ends
    it with the block; `free` takes the code out of whatever is answered."""
    examples: int | None = None
    """Solved problems that stand before the one asked; None: 3, but none for a chat template or a
    student, who know the form."""
    keep: str = "passing"
    """`passing`, `failing` or `all`."""
    per_problem: int = 4
    """Lessons of one problem at most: those that differ most."""
    apart_from: tuple[Path, ...] = ()
    """Files in MBPP's schema: near copies of their solutions are no lessons."""
    batch_size: int = 16
    """Solutions generated at once."""
    dtype: str = "auto"
    """auto, fp32, bf16 or fp16; auto is half precision on CUDA."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        require(
            self.out.suffix == ".jsonl",
            f"out is {self.out}; lessons are a file of JSON lines: give a name that ends in .jsonl",
        )
        for name in ("samples", "max_new_tokens", "per_problem", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("temperature", "seed", "invent"):
            require_at_least(name, getattr(self, name), 0)
        if self.limit is not None:
            require_at_least("limit", self.limit, 1)
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1")
        require(
            self.temperature > 0 or self.samples == 1,
            f"temperature is 0: {self.samples} samples would all be the greedy one. Give a "
            "temperature above 0, or samples=1",
        )
        require(
            self.examples is None or 0 <= self.examples <= MAX_EXAMPLES,
            f"examples is {self.examples}; give 0 to {MAX_EXAMPLES}",
        )
        if self.invent:
            require(
                self.keep == "passing" and self.samples > 1,
                "invented problems are kept where two solutions agree on their tests: they need "
                "keep=passing and samples of 2 or more",
            )
            require(
                self.splits == ("train",) and self.temperature > 0,
                "problems are invented for training, each another one: they need the split train "
                "alone and a temperature above 0",
            )
        require(all(self.stops), "a stop is empty: every text would end at once")
        for split in self.splits:
            require(
                split in SPLITS,
                f"split is {split!r}: lessons are written for {' and '.join(SPLITS)} alone, never "
                "for what models are scored on",
            )
        for name, choices in (
            ("template", TEMPLATES), ("answer", ANSWERS), ("keep", KEEP), ("dtype", PRECISIONS),
        ):  # fmt: skip
            value = getattr(self, name)
            require(value in choices, f"{name} is {value!r}; choose one of {choices}")
        super().__post_init__()

    @property
    def sampling(self) -> GenerationSettings:
        """How solutions are drawn."""
        return GenerationSettings(
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p if self.temperature > 0 else 1.0,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    @property
    def origin(self) -> str:
        """What a cache says of the lessons' documents."""
        return "teacher" if self.writer is None else "student"

    @property
    def failed(self) -> Path:
        """What was not kept, with the reason."""
        return self.out.with_suffix(".failed.jsonl")

    @property
    def stats(self) -> Path:
        """Counts, yield and speeds."""
        return self.out.with_suffix(".stats.json")

    @property
    def work(self) -> Path:
        """Folder of the finished parts, from which a stopped call goes on."""
        return self.out.with_suffix(".work")
