"""Which target format to choose: what each costs on disk, and how true it is to this teacher."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cache.building.config import BuildConfig
from cache.building.job import first_documents
from cache.building.prepare import load_teacher
from cache.errors import CacheError
from cache.storage.manifest import state_of
from cache.targets.format import TargetFormat
from cache.targets.soft_targets import require_temperature
from cache.teacher.load import load_tokenizer, num_token_ids
from cache.teacher.teacher import Teacher
from cache.tools.trial import Trial, TrialResult

TRIAL_ROWS = 4096
TRIAL_TEMPERATURES = (2.0,)
ENOUGH_TV = 0.06
"""Targets as true as this, at the temperature of the training, gave students 97 % or more of what
exact ones gave beyond labels alone (benchmarks/targets.py)."""


@dataclass(frozen=True, kw_only=True)
class TriedFormat:
    """A target format, what the job would cost with it, and what its rows would be worth."""

    targets: TargetFormat
    result: TrialResult
    """As measured on a few rows."""
    num_rows: int
    """Rows of the whole job; of a corpus, those that were looked at."""

    @property
    def bytes_per_row(self) -> float:
        """Bytes a row on disk, without what is stored once a cache."""
        return self.result.bytes_per_row

    @property
    def total_bytes(self) -> int:
        """The whole job, with what is stored once a cache."""
        return round(self.bytes_per_row * self.num_rows) + self.result.shared_bytes

    @property
    def total_variation(self) -> float:
        """Mean over the rows, at the highest temperature."""
        return max(self.result.fidelity, key=lambda row: row.temperature).total_variation


def candidate_formats(width: int, vocab_size: int) -> list[TargetFormat]:
    """The formats that `try_formats` tries on a teacher of this width and vocabulary.

    Ranks beyond the width are that of the width; k beyond half the vocabulary is left out.
    """
    formats = [TargetFormat(top_k=k, tail="renormalize") for k in (16, 64)]
    formats += [TargetFormat(top_k=k, tail="mass") for k in (16, 64, 256)]
    for top_k in (8, 16):
        for rank in sorted({min(rank, width) for rank in (256, 576, TargetFormat.tail_rank)}):
            formats += [
                TargetFormat(top_k=top_k, tail="lowrank", tail_rank=rank, tail_bytes=tail_bytes)
                for tail_bytes in (64.0, 128.0, 160.0, 200.0, None)
            ]
    formats += [
        TargetFormat(top_k=16, tail="sampled", tail_samples=32),
        TargetFormat(top_k=8, tail="hidden"),
    ]
    return [targets for targets in formats if 2 * targets.top_k <= vocab_size]


def try_formats(
    config: BuildConfig,
    *,
    temperatures: Sequence[float] = TRIAL_TEMPERATURES,
    num_rows: int = TRIAL_ROWS,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> list[TriedFormat]:
    """Every candidate, measured on the first documents of a job; cheapest first.

    Same configuration, same teacher, same machine: same result.

    Args:
        config: the job; its `targets` do not matter, and nothing is written to `out`.
        temperatures: those at which fidelity is measured.
        num_rows: rows the teacher computes; half fit the tails, half measure. Of a corpus, only
            about so many tokens are read.
        on_setting: called with how many settings are measured, of how many.

    Raises:
        CacheError: bad input, too few documents, or NaN logits.
    """
    return _tried(config, temperatures, num_rows, on_setting)[0]


def _tried(
    config: BuildConfig,
    temperatures: Sequence[float],
    num_rows: int,
    on_setting: Callable[[int, int], None],
) -> tuple[list[TriedFormat], Teacher]:
    """As `try_formats`, and the teacher that was loaded for it."""
    for temperature in temperatures:
        require_temperature(temperature)
    tokenizer = load_tokenizer(config.teacher, config.revision)
    with first_documents(config, tokenizer, num_rows + 2 * config.max_length) as job:
        teacher = load_teacher(config, job, tokenizer)
        trial = Trial(
            teacher,
            [document for documents in job.documents.values() for document in documents],
            num_tokens=num_token_ids(tokenizer),
            num_rows=num_rows,
            batch_tokens=config.batch_tokens,
            shard_rows=job.num_rows // len(job.shards),
        )
    formats = candidate_formats(trial.width, teacher.vocab_size)
    settings = measure_formats(
        trial, formats, temperatures, num_rows=job.num_rows, on_setting=on_setting
    )
    return settings, teacher


def measure_formats(
    trial: Trial,
    formats: Sequence[TargetFormat],
    temperatures: Sequence[float],
    *,
    num_rows: int,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> list[TriedFormat]:
    """Settings of the formats for a job of `num_rows`, cheapest first.

    A format that gives what an earlier one gave (more bytes than its codes can use) is left out.
    """
    settings: list[TriedFormat] = []
    for done, targets in enumerate(formats):
        on_setting(done, len(formats))
        result = trial.measure(targets, temperatures)
        if all(result != setting.result for setting in settings):
            settings.append(TriedFormat(targets=targets, result=result, num_rows=num_rows))
    on_setting(len(formats), len(formats))
    return sorted(settings, key=lambda setting: setting.bytes_per_row)


def recommend(
    settings: Sequence[TriedFormat],
    *,
    max_tv: float | None = None,
    bytes_per_token: float | None = None,
) -> TriedFormat:
    """The cheapest setting within `max_tv`, or the truest within `bytes_per_token`.

    Total variation counts at the highest temperature that was measured. With neither,
    the cheapest within `ENOUGH_TV`, or the truest.

    Raises:
        CacheError: no setting meets it; the best is named. Or both were given.
    """
    if max_tv is not None and bytes_per_token is not None:
        raise CacheError("Give one of --max-tv and --bytes-per-token.")
    if bytes_per_token is None:
        truest = min(settings, key=lambda s: (s.total_variation, s.bytes_per_row))
        if max_tv is None:
            max_tv = max(ENOUGH_TV, truest.total_variation)
        within = [s for s in settings if s.total_variation <= max_tv]
        if within:
            return min(within, key=lambda s: (s.bytes_per_row, s.total_variation))
        raise CacheError(
            f"No setting has a total variation of {max_tv:g} or less; the truest, "
            f"{truest.targets.words()}, has {truest.total_variation:.4f} at "
            f"{truest.bytes_per_row:.0f} bytes/token. Give --max-tv {truest.total_variation:.2g} "
            "or more."
        )
    cheapest = min(settings, key=lambda s: (s.bytes_per_row, s.total_variation))
    within = [s for s in settings if s.bytes_per_row <= bytes_per_token]
    if within:
        return min(within, key=lambda s: (s.total_variation, s.bytes_per_row))
    raise CacheError(
        f"No setting fits {bytes_per_token:g} bytes/token; the smallest, "
        f"{cheapest.targets.words()}, takes {cheapest.bytes_per_row:.0f} with a total variation "
        f"of {cheapest.total_variation:.4f}. Give --bytes-per-token "
        f"{cheapest.bytes_per_row + 1:.0f} or more."
    )


def frontier(settings: Sequence[TriedFormat]) -> list[TriedFormat]:
    """Settings that no other beats in both bytes and total variation, cheapest first."""
    found: list[TriedFormat] = []
    for setting in sorted(settings, key=lambda s: (s.bytes_per_row, s.total_variation)):
        if not found or setting.total_variation < found[-1].total_variation:
            found.append(setting)
    return found


def with_recommended_targets(
    config: BuildConfig,
    bytes_per_token: float,
    *,
    num_rows: int = TRIAL_ROWS,
    on_setting: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[BuildConfig, Teacher | None]:
    """The configuration with the truest targets that fit the bytes, and the teacher if loaded.

    A build that was begun at `out` keeps the targets it was begun with; no teacher is loaded.

    Raises:
        CacheError: as `try_formats` and `recommend`.
    """
    begun = state_of(config.out).plan
    if begun is not None:
        return replace(config, targets=begun.identity.targets), None
    settings, teacher = _tried(config, TRIAL_TEMPERATURES, num_rows, on_setting)
    chosen = recommend(settings, bytes_per_token=bytes_per_token)
    return replace(config, targets=chosen.targets), teacher
