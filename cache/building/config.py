"""Options of stage one. Imports nothing heavy: the command line is built from it."""

from dataclasses import dataclass
from pathlib import Path

from cache.building.mixture import Mixture
from cache.data.corpus import LONG_DOCUMENTS as PACK
from cache.data.corpus import TEMPLATE, VALIDATION, Corpus, require_held_out, require_split_names
from cache.data.problems import DEFAULT_DATASET, SPLIT_TASK_IDS
from cache.data.sft import Sft
from cache.data.templates import CHAT, CONVERSATIONS, PAIR
from cache.data.text_format import BOS_CHOICES
from cache.errors import CacheError
from cache.machine.choices import PRECISIONS
from cache.targets.format import TargetFormat

DEFAULT_TEACHER = "bigcode/starcoder2-3b"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What `cache-teacher` builds, from what, and how."""

    out: Path
    """Cache directory; made, or resumed where a build was stopped."""
    teacher: str = DEFAULT_TEACHER
    """Hub id, local folder or .gguf file."""
    revision: str | None = None
    """Branch, tag or commit of the teacher on the hub."""
    dataset: str = DEFAULT_DATASET
    """Hub id, or a JSON-lines file in MBPP's schema; of several, or a corpus, their description."""
    mixture: Mixture | None = None
    """Several datasets of problems; it decides dataset."""
    corpus: Corpus | None = None
    """Texts to cache instead of problems; it decides dataset, template and long_documents."""
    sft: Sft | None = None
    """Conversations to cache instead of problems; it decides dataset."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits to cache."""
    template: str = "instruction"
    """How a problem becomes text."""
    max_length: int = 512
    """Longest document, in tokens."""
    long_documents: str = "drop"
    """`drop` leaves longer documents out and names them; `truncate` cuts their end."""
    bos: str = "auto"
    """What is put before every text: `auto`, what the tokenizer itself adds; `always`, its
    beginning-of-sequence token; `never`, nothing."""
    parse_special: bool = False
    """Take special tokens' names in the data for the tokens; else they are text."""
    isolate: bool = False
    """Of a corpus: give each text of a document positions and attention of its own."""
    targets: TargetFormat = TargetFormat()
    """What is stored of a row."""
    tail_from: Path | None = None
    """Cache whose basis a lowrank tail takes instead of fitting one: the two can be merged."""
    dtype: str = "auto"
    """Teacher's precision; auto is bf16 on a GPU that has it, fp16 on an older one, else fp32."""
    device_map: str = "auto"
    """As in transformers: auto spreads the teacher over all accelerators."""
    batch_tokens: int = 8192
    """Padded tokens of a teacher batch."""
    shard_tokens: int = 32768
    """Tokens of a shard; what a killed build loses at most."""
    limit: int | None = None
    """Only the first problems, or texts, of each split."""

    def __post_init__(self):
        for name in ("max_length", "batch_tokens", "shard_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CacheError(f"{name} is {value}; it must be 1 or more.")
        if self.max_length < 2:
            raise CacheError("max_length is 1; a document needs 2 tokens to have a row.")
        if self.bos not in BOS_CHOICES:
            raise CacheError(f"bos is {self.bos!r}; choose from {', '.join(BOS_CHOICES)}.")
        if self.isolate and self.corpus is None:
            raise CacheError(
                "--isolate keeps packed texts apart, and only a corpus is packed. Leave it out."
            )
        if self.dtype not in PRECISIONS:
            raise CacheError(f"dtype is {self.dtype!r}; choose from {', '.join(PRECISIONS)}.")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise CacheError(f"splits are {self.splits}; name one or more, each once.")
        if self.corpus is not None:
            self.corpus.require_splits(self.splits)
            decided = {
                "dataset": self.corpus.words(self.limit),
                "template": TEMPLATE,
                "long_documents": PACK,
            }
            for name, value in decided.items():
                object.__setattr__(self, name, value)
            return
        if self.sft is not None:
            self._require_sft(self.sft)
            return
        if self.mixture is not None:
            object.__setattr__(self, "dataset", self.mixture.words())
        if self.template == PAIR:
            raise CacheError(f"The template {PAIR!r} is that of --sft. Choose another.")
        if self.template == TEMPLATE:
            raise CacheError(
                f"The template {TEMPLATE!r} is that of a corpus. Name the column of its texts with "
                "--text-field."
            )
        for split in self.splits:
            if split not in SPLIT_TASK_IDS:
                raise CacheError(
                    f"There is no split {split!r}; MBPP has {', '.join(sorted(SPLIT_TASK_IDS))}."
                )

    def _require_sft(self, sft: Sft) -> None:
        if self.template not in (CHAT, PAIR):
            raise CacheError(
                f"--sft rows become text by --template {CHAT} or {PAIR}, not {self.template!r}."
            )
        require_split_names(self.splits)
        require_held_out(self.splits, sft.validation_every)
        object.__setattr__(self, "dataset", sft.words(self.limit))

    @property
    def recorded_template(self) -> str:
        """What the identity calls the template."""
        return CONVERSATIONS if self.sft is not None and self.template == CHAT else self.template

    @property
    def cached_splits(self) -> tuple[str, ...]:
        """Splits of the cache: those that are read, and what a corpus holds out."""
        source = self.corpus or self.sft
        if source is None or source.validation_every is None:
            return self.splits
        return (*self.splits, VALIDATION)
