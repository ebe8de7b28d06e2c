"""An alarm for pass rates that models of this size have not been known to reach."""

from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.metrics.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published HumanEval pass@1."""

    model: str
    parameters: float
    pass_at_1: float
    """In [0, 1]."""
    source: str


# By size. Each reaches more than every smaller one; models that reach less than a smaller one
# (CodeParrot 110M 3.80 %, TinyStarCoderPy 164M 7.84 %, CodeGen-Mono 350M 12.76 %) set no bound.
HUMANEVAL = (
    Published(
        model="Codex 25M", parameters=25e6, pass_at_1=0.0321, source="Chen et al. 2021, table 1"
    ),
    Published(
        model="Codex 85M", parameters=85e6, pass_at_1=0.0822, source="Chen et al. 2021, table 1"
    ),
    Published(
        model="Codex 300M", parameters=300e6, pass_at_1=0.1317, source="Chen et al. 2021, table 1"
    ),
    Published(
        model="CodeGen-Mono 2.7B",
        parameters=2.7e9,
        pass_at_1=0.2370,
        source="Nijkamp et al. 2022, table 1",
    ),
    Published(
        model="StarCoder2-3B",
        parameters=3.03e9,
        pass_at_1=0.317,
        source="Lozhkov et al. 2024",
    ),
)


def find_bound(task_ids: Iterable[str], parameters: int) -> Published | None:
    """The smallest published model of at least this size; None beyond them or off HumanEval."""
    if not all(task_id.startswith("HumanEval/") for task_id in task_ids):
        return None
    return next((model for model in HUMANEVAL if model.parameters >= parameters), None)


def implausible(task_ids: Iterable[str], parameters: int, interval: Interval) -> Published | None:
    """The published model whose pass@1 lies below the whole interval of a model no larger.

    The margin is the interval itself: luck on the problems drawn raises no alarm.
    """
    bound = find_bound(task_ids, parameters)
    return bound if bound is not None and interval[0] > bound.pass_at_1 else None
