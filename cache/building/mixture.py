"""Several datasets of problems as one: gold solutions and those that models wrote, by weights."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cache.data.corpus import require_a_weight_each
from cache.data.problems import Problem, read_problems, require_problems
from cache.errors import CacheError

WEIGHTED = "train"
"""The split that weights are about; what students are measured on is taken whole."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Which datasets of problems are read, and how much of each is trained on."""

    sources: tuple[str, ...]
    """Hub ids, or JSON-lines files in MBPP's schema."""
    weights: tuple[float, ...] = ()
    """Shares of the training problems taken from each source; empty takes all there are."""

    def __post_init__(self):
        if len(set(self.sources)) != len(self.sources):
            raise CacheError(f"The datasets are {', '.join(self.sources)}; name each once.")
        require_a_weight_each(self.sources, self.weights)
        if any(not (w >= 0 and math.isfinite(w)) for w in self.weights):
            raise CacheError(f"Weights are {self.weights}; each must be 0 or more.")
        if self.weights and not any(self.weights):
            raise CacheError("All weights are 0; one or more must be above.")

    def words(self) -> str:
        """What an identity calls the dataset."""
        if not self.weights:
            return " + ".join(self.sources)
        shares = [weight / sum(self.weights) for weight in self.weights]
        parts = [f"{s:.4g} {name}" for s, name in zip(shares, self.sources, strict=True)]
        return " + ".join(parts)


def load_mixture(mixture: Mixture, split: str, limit: int | None = None) -> list[Problem]:
    """The problems of a split, source by source.

    With weights, of the training split as many are taken as have these shares, none twice, chosen
    by a hash of their `task_id`.

    Args:
        limit: only the first problems of each source.

    Raises:
        CacheError: as `cache.data.problems.load_problems`; no source has problems in the split,
            or a `task_id` stands in two of them.
    """
    found = [read_problems(source, split)[:limit] for source in mixture.sources]
    _require_distinct(mixture, found)
    if split == WEIGHTED and mixture.weights:
        found = _weighted(mixture, found)
    problems = [problem for of_source in found for problem in of_source]
    require_problems(problems, mixture.words(), split)
    return problems


def _require_distinct(mixture: Mixture, found: Sequence[Sequence[Problem]]) -> None:
    holders: dict[int, str] = {}
    for source, problems in zip(mixture.sources, found, strict=True):
        for problem in problems:
            if problem.task_id in holders:
                raise CacheError(
                    f"task_id {problem.task_id} stands in {holders[problem.task_id]} and in "
                    f"{source}; remove one."
                )
            holders[problem.task_id] = source


def _weighted(mixture: Mixture, found: Sequence[Sequence[Problem]]) -> list[list[Problem]]:
    pairs = list(zip(found, mixture.weights, strict=True))
    scale = min(len(problems) / weight for problems, weight in pairs if weight)
    return [_some(problems, int(scale * weight + 1e-9)) for problems, weight in pairs]


def _some(problems: Sequence[Problem], count: int) -> list[Problem]:
    def draw(index: int) -> str:
        return hashlib.sha256(str(problems[index].task_id).encode()).hexdigest()

    chosen = sorted(range(len(problems)), key=draw)[:count]
    return [problems[index] for index in sorted(chosen)]
