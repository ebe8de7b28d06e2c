"""What `train` and `sweep` are asked to do. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from cache.machine.choices import WANDB_MODES
from distill.errors import DistillError
from distill.settings.recipe import Recipe

ENGINES = ("local", "ray")


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
    save_every: int = 500
    """Optimizer steps between two checkpoints; each epoch, and ten minutes, end with one too."""
    wandb: str | None = None
    """`online`, `offline`, `disabled`; None: online where an account is set up."""
    wandb_project: str = "logitcache"
    """W&B project the run belongs to."""
    wandb_group: str | None = None
    """W&B group of the run; a sweep's runs share one."""

    def __post_init__(self) -> None:
        _require_wandb_mode(self.wandb)
        if self.save_every < 1:
            raise DistillError(
                f"save_every is {self.save_every}, but checkpoints need at least 1 step between "
                "them. Choose a larger number, or leave it out for one every 500 steps."
            )


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """All recipes of a file trained from one cache."""

    cache: Path
    """Directory of the cache of soft targets."""
    recipes: Path
    """YAML file of recipes, or the name of one that comes with the package."""
    out: Path
    """Directory that gets one directory a recipe, and the plots that compare them."""
    only: tuple[str, ...] = ()
    """Names of the recipes to run; empty: all."""
    with_baseline: bool = False
    """Whether each recipe's run on labels alone, without the teacher, is trained too."""
    jobs: int = 1
    """Students trained at a time, each in a process of its own where there are several."""
    engine: str = "local"
    """`local`: processes of this machine; `ray`: tasks of a Ray cluster."""
    ray_address: str | None = None
    """Of the cluster; None: the one RAY_ADDRESS names, else one of this machine alone."""
    gpus_per_job: float | None = None
    """GPUs of a Ray task, or a share of one; None: one where the cluster has any."""
    cpus_per_job: int = 1
    """CPUs, and threads, of a Ray task."""
    teacher_parameters: int | None = None
    """Of the teacher, for the ledger of costs; None: what the cache says."""
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
        self._require_engine()
        for field in ("jobs", "cpus_per_job", "teacher_parameters"):
            value = getattr(self, field)
            if value is not None and value < 1:
                option = field.replace("_", "-")
                raise DistillError(f"{field} is {value}; it must be at least 1. Change --{option}.")

    def _require_engine(self) -> None:
        if self.engine not in ENGINES:
            raise DistillError(f"engine is {self.engine!r}; choose from {', '.join(ENGINES)}.")
        if self.engine == "ray" and self.jobs > 1:
            raise DistillError(
                f"--jobs {self.jobs} with --engine ray: Ray runs as many students at a time as the "
                "cluster has room for. Leave --jobs out; --cpus-per-job and --gpus-per-job say "
                "what each needs."
            )
        if self.engine == "local" and (
            self.ray_address or self.gpus_per_job is not None or self.cpus_per_job != 1
        ):
            raise DistillError(
                "--ray-address, --gpus-per-job and --cpus-per-job need --engine ray. On this "
                "machine --jobs divides the cores."
            )
        if self.gpus_per_job is not None and self.gpus_per_job < 0:
            raise DistillError(f"gpus_per_job is {self.gpus_per_job}; it cannot be negative.")

    @property
    def name(self) -> str:
        """Of the sweep: its directory's."""
        return self.out.resolve().name
