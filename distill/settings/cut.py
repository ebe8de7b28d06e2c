"""What `init-student` is asked to do. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError

CHOICES = ("uniform", "influence", "kl")


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """What `init_student` is asked to do."""

    teacher: str
    """Hub id, folder or .gguf file."""
    out: Path
    """Directory of the student: a plain Hugging Face folder, with `student.json`."""
    num_layers: int | None = None
    """How many layers to keep; without this and `kept`, all."""
    kept: tuple[int, ...] | None = None
    """Which layers, by hand; with `num_layers`, those among which so many are chosen: a smaller
    student's are found from the next larger one's, where `kl` would come by it anyway."""
    choose: str = "uniform"
    """`uniform`: evenly spaced, the first and the last kept; `influence`: those that change their
    input most; `kl`: those left when the layer whose loss costs least is taken out, one by one."""
    feed_forward: int | None = None
    """How many neurons to keep in the feed-forward network of each layer that is kept: those that
    add most. None: all."""
    kv_heads: int | None = None
    """How many heads of keys and values to keep in each, with the queries of each. None: all."""
    reconstruct: int = 0
    """How many tokens to fit what is left on, besides those that are measured on; 0: not at all."""
    cache: Path | None = None
    """A cache of this teacher, whose first documents are measured on: for all choices but
    `uniform`, and to measure what the cut costs."""
    dataset: str | None = None
    """In place of a cache: hub id of problems, or a JSON-lines file, in MBPP's schema; with
    `text_field` any texts."""
    split: str = "train"
    """Of the dataset."""
    text_field: str | None = None
    """Column of the dataset that holds texts, which are measured on as they stand."""
    num_tokens: int = 1024
    """How many tokens are measured on."""
    revision: str | None = None
    """Of the teacher on the hub."""
    dtype: str = "auto"
    """Of its weights, and of the student's; with a cache it is that of the cache."""

    def __post_init__(self) -> None:
        if not self.chooses_layers and self.kept is None and not self.narrows:
            raise DistillError(
                "Nothing is cut. Give --layers or --keep, or a width: --feed-forward, --kv-heads."
            )
        if self.choose not in CHOICES:
            raise DistillError(
                f"choose is {self.choose!r}, but must be one of {', '.join(CHOICES)}."
            )
        if self.choose != "uniform" and not self.chooses_layers:
            raise DistillError(f"--choose {self.choose} chooses layers: give --layers, how many.")
        if self.cache is not None and self.dataset is not None:
            raise DistillError("Give one of --cache and --dataset.")
        if self.text_field is not None and self.dataset is None:
            raise DistillError("--text-field is a dataset's. Give --dataset.")
        if not self.measures and (self.choose != "uniform" or self.narrows):
            what = "a width is chosen" if self.narrows else f"--choose {self.choose} chooses"
            raise DistillError(
                f"{what} by what is measured on documents. Give --cache or --dataset."
            )
        if self.reconstruct < 0:
            raise DistillError(f"reconstruct is {self.reconstruct}, but must be 0 or more.")
        if self.reconstruct and not self.measures:
            raise DistillError("--reconstruct fits on documents. Give --cache or --dataset.")
        if self.num_tokens < 2:
            raise DistillError(f"num_tokens is {self.num_tokens}, but must be 2 or more.")

    @property
    def chooses_layers(self) -> bool:
        """Whether layers are chosen by number."""
        return self.num_layers is not None

    @property
    def narrows(self) -> bool:
        """Whether layers become narrower."""
        return self.feed_forward is not None or self.kv_heads is not None

    @property
    def measures(self) -> bool:
        """Whether there are documents to measure on."""
        return self.cache is not None or self.dataset is not None
