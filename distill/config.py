"""What `train` and `sweep` are asked to do. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from distill.errors import DistillError
from distill.recipe import Recipe

WANDB_MODES = ("online", "offline", "disabled")


def _require_wandb_mode(mode: str | None) -> None:
    if mode is not None and mode not in WANDB_MODES:
        raise DistillError(
            f"wandb is {mode!r}, but must be one of {', '.join(WANDB_MODES)}, or left out "
            "(then runs are logged to W&B only where an account is set up)."
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One student trained from one cache into one directory."""

    cache: Path
    """Directory of the cache of soft targets."""
    recipe: Recipe
    """The student and how it is trained."""
    out: Path
    """Directory of the run; a plain Hugging Face folder when finished."""
    resume: bool = False
    """Go on from the last checkpoint in `out`; start anew if there is none."""
    wandb: str | None = None
    """`online`, `offline`, `disabled`; None: online where an account is set up."""
    wandb_project: str = "logitcache"
    """W&B project the run belongs to."""

    def __post_init__(self) -> None:
        _require_wandb_mode(self.wandb)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """All recipes of a file trained one after another from one cache."""

    cache: Path
    """Directory of the cache of soft targets."""
    recipes: Path
    """YAML file of recipes, or the name of one that comes with the package."""
    out: Path
    """Directory that gets one directory a recipe, and the plots that compare them."""
    only: tuple[str, ...] = ()
    """Names of the recipes to run; empty: all."""
    wandb: str | None = None
    """`online`, `offline`, `disabled`; None: online where an account is set up."""
    wandb_project: str = "logitcache"
    """W&B project the runs belong to."""

    def __post_init__(self) -> None:
        _require_wandb_mode(self.wandb)
        repeated = sorted({name for name in self.only if self.only.count(name) > 1})
        if repeated:
            raise DistillError(
                f"recipes named more than once: {', '.join(repeated)}. Name each one once."
            )
