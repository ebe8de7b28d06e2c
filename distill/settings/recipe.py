"""Recipe: everything that decides what a student becomes, apart from the cache it learns from."""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from cache.machine.choices import PRECISIONS
from cache.targets.format import MAX_TEMPERATURE, MIN_TEMPERATURE
from distill.errors import DistillError
from distill.settings.shapes import names_model, parse_shape

BATCHINGS = ("grouped", "packed")
LOSS_ON = ("all", "completion", "assistant")
DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
BEST_BY = ("kl", "cross_entropy", "top1", "loss")
INITS = ("pretrained", "random")
LR_SCHEDULES = ("constant", "linear", "cosine")
DECAYS = ("all", "matrices")
OPTIMIZERS = ("adamw", "adamw8bit")
_CHOICES: dict[str, tuple[str, ...]] = {
    "divergence": DIVERGENCES,
    "batching": BATCHINGS,
    "lr_schedule": LR_SCHEDULES,
    "decay": DECAYS,
    "optimizer": OPTIMIZERS,
    "loss_on": LOSS_ON,
    "precision": PRECISIONS,
    "best_by": BEST_BY,
}
WITHOUT_TEACHER: dict[str, Any] = {
    "alpha": 0.0,
    "alpha_end": None,
    "temperature": 1.0,
    "temperature_end": None,
    "divergence": "forward_kl",
}
"""Fields of the teacher's term, where it has no weight at any step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One student and how it is trained. Two runs of a recipe on one cache give one student."""

    name: str
    """Name of the run and of its directory in a sweep."""
    student: str
    """`44m`, `202m`, `tiny`, LAYERSxWIDTHxHEADS such as 6x512x8 or llama:6x512x8; or a folder or
    hub id of any causal language model with the teacher's tokenizer."""
    temperature: float
    """Softens teacher and student in the distillation term; 1 to 4."""
    alpha: float
    """Weight of the distillation term, 0 to 1; the label's cross-entropy gets 1 - alpha."""
    temperature_end: float | None = None
    """Temperature of the last step, reached in a straight line; None: the same at every step."""
    alpha_end: float | None = None
    """Alpha of the last step, reached in a straight line; None: the same at every step."""
    divergence: str = "forward_kl"
    """The distillation term: `forward_kl`, or `reverse_kl`, `jensen_shannon`, `total_variation`."""
    epochs: int = 7
    """Passes over the cache."""
    max_steps: int | None = None
    """Optimizer steps after which the run ends, if its epochs have more; None: it has them all."""
    batch_size: int = 4
    """Documents in one microbatch; where they are packed, its sequences at most."""
    accumulate: int = 4
    """Microbatches in one optimizer step, over all processes together."""
    batching: str = "grouped"
    """`grouped`: documents of like length side by side; `packed`: the same number of documents a
    step, end to end in as few sequences as fit, which makes fewer microbatches."""
    lr: float = 5e-5
    """Learning rate of AdamW, at its highest."""
    lr_schedule: str = "constant"
    """`constant`, or `linear` or `cosine`: down to 0 at the end of the run."""
    warmup_ratio: float = 0.0
    """Share of all steps in which the learning rate rises, evenly and from the first step on."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    decay: str = "all"
    """What decays: `all` parameters, or `matrices`, those of two dimensions and more: embeddings,
    but neither biases nor what scales a norm."""
    optimizer: str = "adamw"
    """`adamw`, or `adamw8bit`, whose moments take a quarter of the memory; from bitsandbytes."""
    clip: float = 1.0
    """Largest gradient norm; a longer gradient is scaled down to it."""
    dropout: float = 0.1
    """Dropout of embeddings, attention and residual branches, as in GPT-2; a llama shape has it in
    attention alone, and a model from a folder or the hub has that of its configuration."""
    loss_on: str = "all"
    """`all` rows, those whose label is in the `completion` (the code), or those whose label the
    `assistant` wrote, in any turn of a conversation."""
    precision: str = "auto"
    """`fp32`, `bf16`, `fp16` (with loss scaling), or `auto`: the best the device does well."""
    gradient_checkpointing: bool = False
    """Compute the trunk's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the student's blocks with torch.compile, which takes a minute at the first steps."""
    init: str | None = None
    """First weights of a model from a folder or the hub: `pretrained`, its own, or `random`, from
    its configuration alone; None: `pretrained` where there are any."""
    freeze: tuple[str, ...] = ()
    """Parts that do not learn: every parameter with one of these in its name."""
    lora_rank: int | None = None
    """Rank of adapters on all linear layers but the head, of a model from a folder or the hub:
    they alone learn, and are merged in what is saved; None: no adapters."""
    lora_alpha: int | None = None
    """Their strength: they count lora_alpha / lora_rank times; None: twice the rank."""
    best_by: str = "kl"
    """The validation measure whose best weights are kept in `best/`: `kl`, `cross_entropy` or
    `top1`, at T = 1 over all tokens, or this recipe's own `loss`."""
    early_stopping: int | None = None
    """Stop after so many epochs in a row without a better validation; None: never."""
    validate_every: int | None = None
    """Optimizer steps between two validations within an epoch; None: at the end of each only."""
    validation_documents: int | None = None
    """Documents of the validation split that are measured, evenly spaced and the same ones every
    time; None: all."""
    sample_prompts: int = 3
    """Validation prompts that the student completes at each validation, for `samples.jsonl`; 0:
    none."""
    seed: int = 0
    """Decides the first weights, the order of documents and the dropout."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise DistillError(
                f"recipe name {self.name!r} cannot name a directory. "
                "Use letters, digits, '.', '_' and '-', starting with a letter or digit."
            )
        if not names_model(self.student):
            parse_shape(self.student)
            self._require("init", self.init != "pretrained", "random for a shape")
        self._require_lora()
        self._require("init", self.init in (None, *INITS), f"one of {', '.join(INITS)}")
        for field in ("temperature", "temperature_end"):
            value = getattr(self, field)
            if value is not None and not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
                raise DistillError(
                    f"recipe {self.name}: {field} is {value}, but a cache holds the "
                    f"tail's mass for {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g} only. "
                    "Choose a temperature in that range."
                )
        for field in ("alpha", "alpha_end"):
            value = getattr(self, field)
            self._require(field, value is None or 0 <= value <= 1, "between 0 and 1")
        for field, allowed in _CHOICES.items():
            self._require(field, getattr(self, field) in allowed, f"one of {', '.join(allowed)}")
        self._require("warmup_ratio", 0 <= self.warmup_ratio < 1, "at least 0 and less than 1")
        stops = self.early_stopping
        self._require("early_stopping", stops is None or stops >= 1, "at least 1, or left out")
        for field in ("epochs", "batch_size", "accumulate"):
            self._require(field, getattr(self, field) >= 1, "at least 1")
        for field in ("max_steps", "validate_every", "validation_documents"):
            value = getattr(self, field)
            self._require(field, value is None or value >= 1, "at least 1")
        self._require("sample_prompts", self.sample_prompts >= 0, "0 or more")
        self._require("lr", 0 < self.lr < math.inf, "a positive number")
        self._require("clip", 0 < self.clip, "a positive number")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._require("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self._require("seed", 0 <= self.seed < 2**32, "between 0 and 4294967295")

    def _require_lora(self) -> None:
        rank, alpha = self.lora_rank, self.lora_alpha
        if rank is not None and (self.init == "random" or not names_model(self.student)):
            raise DistillError(
                f"recipe {self.name}: lora_rank is {rank}, but the student begins with random "
                "weights, which would stay as they are under adapters. Name a model with weights "
                "as `student`, or leave lora_rank out."
            )
        self._require("lora_rank", rank is None or rank >= 1, "at least 1, or left out")
        self._require("lora_alpha", alpha is None or alpha >= 1, "at least 1, or left out")
        self._require("lora_alpha", alpha is None or rank is not None, "left out without lora_rank")

    @property
    def may_change_length(self) -> bool:
        """Whether a longer run begins like a shorter one: nothing follows from the last step."""
        ends = (self.temperature_end, self.alpha_end)
        return self.lr_schedule == "constant" and not self.warmup_ratio and ends == (None, None)

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the teacher's term has a weight at any step."""
        return self.alpha > 0 or bool(self.alpha_end)

    def labels_alone(self) -> "Recipe":
        """The same run without the teacher: what its gain is measured against.

        A recipe that has no teacher's term is its own.
        """
        if not self.learns_from_teacher:
            return self
        return replace(self, name=f"{self.name}_labels-alone", **WITHOUT_TEACHER)

    def _require(self, field: str, holds: bool, needed: str) -> None:
        if not holds:
            raise DistillError(
                f"recipe {self.name}: {field} is {getattr(self, field)!r}, but must be {needed}. "
                f"Change `{field}` in the recipe."
            )


def recipe_from_mapping(mapping: dict[str, Any]) -> Recipe:
    """The recipe a mapping of plain values describes, as read from YAML or `run.json`.

    `5e-5` is a string to YAML 1.1; it is read as the number that was meant.

    Raises:
        DistillError: an unknown or missing key, or a value of the wrong type, each named.
    """
    label = f"recipe {mapping.get('name', '(no name)')}"
    types = {field.name: field.type for field in fields(Recipe)}
    unknown = [str(key) for key in mapping if key not in types]
    if unknown:
        raise DistillError(
            f"{label} has unknown keys: {', '.join(unknown)}. Known are {', '.join(types)}. "
            "Correct the spelling or remove them."
        )
    missing = [key for key in ("name", "student", "temperature", "alpha") if key not in mapping]
    if missing:
        raise DistillError(f"{label} lacks {', '.join(missing)}. Add them to the recipe.")
    return Recipe(**{key: _typed(label, key, types[key], mapping[key]) for key in mapping})


def _typed(label: str, key: str, wanted: Any, value: Any) -> Any:
    optional = {float | None: float, int | None: int, str | None: str}
    if value is None and wanted in optional:
        return None
    wanted = optional.get(wanted, wanted)
    if wanted == tuple[str, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "list of strings"
    elif wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is wanted:
        return value
    raise DistillError(
        f"{label}: {key} is {value!r}, but must be of type {getattr(wanted, '__name__', wanted)}. "
        f"Change `{key}` in the recipe."
    )
