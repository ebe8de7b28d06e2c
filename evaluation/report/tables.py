"""The one list of what is told of models: every table, and every column of it.

CSV, W&B, Markdown, the terminal and the page all show what stands here, and nothing of their own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluation.agreement.scores import DRAFTED
from evaluation.judging.outcomes import group_outcomes
from evaluation.report import forms
from evaluation.report.columns import CUT, Column, Row

DISTRIBUTIONS = {
    "Greedy completions": "greedy_outcomes",
    "Samples": "sampled_outcomes",
    "What ended the completions": "finishes",
}
"""Counts of completions in a row, by what became of them."""


@dataclass(frozen=True)
class Table:
    """Columns that belong together, and the models that they are about."""

    title: str
    section: str
    """Where it stands on the page."""
    columns: Sequence[Column]
    rows: Sequence[tuple[int, Row]]
    """With their places among all models, from 0."""
    signature: str = ""
    """Name of the conditions of its scores."""


def every_table(rows: Sequence[Row]) -> list[Table]:
    """All tables with all columns, measured or not."""
    everyone = list(enumerate(rows))
    # Where no problem is contaminated, pass rates without the contaminated ones say nothing new.
    partly_clean = [
        (index, row)
        for index, row in everyone
        if row.get("uncontaminated_problems") not in (None, len(row["greedy_passed"]))
    ]
    ks = sampled_ks(rows)
    alone, batched = _times("latency", ""), _times("latency.batched", "_batched")
    held_out = "Agreement with the teacher on held-out"
    return [
        Table("What decides", "Choosing", _deciding(), everyone),
        Table("Quality", "Summary", [GREEDY, *map(_sampled, ks), *LIKENESS], everyone, "greedy"),
        Table("Against the teacher", "Summary", AGAINST_THE_TEACHER, everyone),
        Table("Without contaminated problems", "Contamination", _uncontaminated(ks), partly_clean),
        Table(f"{held_out} documents", "Summary", _agreement("whole"), everyone, "agreement"),
        Table(f"{held_out} completions", "Agreement", _agreement("completion"), everyone),
        Table("As drafts for the teacher", "Drafts", DRAFTS, everyone, "agreement"),
        Table("Cost", "Summary", [*COST, *alone[:2]], everyone, "latency"),
        Table("Latency of one prompt", "Latency", alone[2:], everyone, "latency"),
        Table("Latency of batches", "Latency", [BATCH, *batched], everyone, "latency"),
        Table("Failed at a limit", "Outcomes", AT_A_LIMIT, everyone),
    ]


def measured_tables(rows: Sequence[Row]) -> list[Table]:
    """The tables without the models and columns that have no number; none that is empty."""
    tables = []
    for table in every_table(rows):
        columns = [
            column
            for column in table.columns
            if any(column.value(row) is not None for _, row in table.rows)
        ]
        kept = [
            (index, row)
            for index, row in table.rows
            if any(column.value(row) is not None for column in columns)
        ]
        if kept:
            tables.append(replace(table, rows=kept, columns=columns))
    return tables


def flat_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The numbers of every model, the same for CSV and W&B; None where not measured."""
    columns = [column for table in every_table(rows) for column in table.columns]
    return [
        {"model": row["label"], "role": "teacher" if row["is_teacher"] else "student"}
        | {key: value for column in columns for key, value in column.numbers(row).items()}
        for row in rows
    ]


def sampled_ks(rows: Sequence[Row]) -> list[str]:
    """Every k of pass@k, from small to large."""
    return sorted({k for row in rows for k in row["pass_at"]}, key=int)


def count_kinds(rows: Sequence[Row], field: str) -> dict[str, list[int]]:
    """Completions of each kind, one count a model: passed first, then the most frequent kind."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row[field])
    counts = [group_outcomes(row[field]) for row in rows]
    return {kind: [count.get(kind, 0) for count in counts] for kind in group_outcomes(total)}


GREEDY = Column(
    "greedy_pass@1", "greedy pass@1", "greedy_pass_at_1", forms.SHARE,
    "Problems solved by the greedy completion; 95 % Wilson interval over problems.",
    "greedy_interval",
)  # fmt: skip


def _sampled(k: str) -> Column:
    meaning = f"Unbiased pass@{k} of the samples; 95 % interval over problems."
    return Column(
        f"pass@{k}", f"pass@{k}", f"pass_at.{k}", forms.SHARE, meaning, f"pass_at_intervals.{k}"
    )


LIKENESS = [
    Column(field, name, field, forms.ONE_DIGIT, meaning)
    for field, name, meaning in (
        ("bleu", "BLEU", "Of the greedy completions alone against canonical solutions."),
        ("bleu_raw", "BLEU raw", "The same before they are cut at stop sequences."),
    )
]
AGAINST_THE_TEACHER = [
    Column(field, name, f"comparison.{field}", form, meaning, interval)
    for field, name, form, meaning, interval in (
        ("kept_percent", "of the teacher's", forms.OF_HUNDRED,
         "Greedy pass@1 in percent of the teacher's; 95 % interval of paired rates.",
         "comparison.kept_percent_interval"),
        ("greedy_difference", "greedy, points", forms.POINTS,
         "Greedy pass@1 minus the teacher's, in points; 95 % paired interval (Newcombe).",
         "comparison.greedy_difference_interval"),
        ("mcnemar_p", "McNemar p", forms.P_VALUE,
         "Two-sided exact p that the problems solved by one alone fall to either alike.", ""),
        ("sampled_difference", "sampled, points", forms.POINTS,
         "Sampled pass@1 minus the teacher's, in points; 95 % paired interval.",
         "comparison.sampled_difference_interval"),
        ("both", "both", forms.COUNT, "Problems that this model and the teacher solve.", ""),
        ("only_student", "it alone", forms.COUNT, "Problems that this model alone solves.", ""),
        ("only_teacher", "teacher alone", forms.COUNT, "Those that the teacher alone solves.", ""),
        ("neither", "neither", forms.COUNT, "Problems that neither solves.", ""),
    )
]  # fmt: skip
DRAFTS = [
    Column("acceptance", "acceptance", "agreement.completion.draft.acceptance", forms.SHARE,
           "Chance that the teacher takes a drafted token, 1 - TV; 95 % bootstrap interval.",
           "agreement.completion.draft.acceptance_interval"),
] + [
    Column(f"tokens_per_pass_{drafted}", f"tokens a pass, γ = {drafted}",
           f"agreement.completion.draft.tokens_per_pass.{drafted}", forms.SHORT,
           f"Tokens that a pass of the teacher gives where {drafted} are drafted before it.",
           f"agreement.completion.draft.tokens_per_pass_intervals.{drafted}")
    for drafted in DRAFTED
] + [
    Column(f"draft_{field}", name, f"draft_speed.{field}", form, meaning)
    for field, name, form, meaning in (
        ("drafted", "measured γ", forms.COUNT, "Tokens drafted before each pass."),
        ("tokens_per_pass", "measured tokens a pass", forms.SHORT,
         "New tokens over passes of the teacher, greedy, on the benchmark's prompts."),
        ("tokens_per_second", "tok/s with it", forms.SHORT,
         "New tokens a second of the teacher with this draft, one prompt at a time."),
        ("alone_tokens_per_second", "tok/s alone", forms.SHORT, "Of the teacher alone."),
        ("speedup", "speed-up", forms.RATIO, "Of the two."),
        ("same", "same", forms.COUNT, "Generations that are the teacher's own to the last token."),
        ("generations", "of", forms.COUNT, "Generations timed."),
    )
]  # fmt: skip
COST = [
    Column(field, name, field, form, meaning)
    for field, name, form, meaning in (
        ("parameters", "parameters", forms.MILLIONS, "Tied ones once."),
        ("size_bytes", "size", forms.MEGABYTES, "Of the weights."),
        ("size_source", "size from", forms.TEXT,
         "Its .safetensors files and their dtype; computed where there are none."),
        ("parameter_ratio", "fewer parameters", forms.RATIO, "The teacher's over this one's."),
        ("compression", "smaller", forms.RATIO, "The teacher's bytes over this one's."),
        ("peak_memory_bytes", "peak memory", forms.GIBIBYTES, "Most the CUDA device held."),
        ("speedup", "speed-up", forms.RATIO, "The teacher's median latency over this one's."),
    )
]  # fmt: skip
BATCH = Column("latency_batch", "batch", "latency.batched.batch", forms.COUNT, "Prompts at once.")
AT_A_LIMIT = [
    Column(
        f"{kind}_failed_at_token_limit", f"{kind} at token limit",
        f"failed_at_token_limit.{kind}", forms.COUNT, "Failed, and had used up its new tokens.",
    )
    for kind in ("greedy", "sampled")
] + [
    Column(
        "prompts_too_long", "prompts too long", "greedy_outcomes.prompt_too_long", forms.COUNT,
        "Prompts that leave no room for a completion.", default=0,
    )
]  # fmt: skip


def _uncontaminated(ks: Sequence[str]) -> list[Column]:
    where = "over the problems that share nothing with the training documents."
    columns = [
        Column(
            "uncontaminated_problems", "clean problems", "uncontaminated_problems", forms.COUNT,
            "Problems that share nothing with the training documents.",
        ),
        GREEDY,
        Column(
            "greedy_pass@1_uncontaminated", "clean greedy", "greedy_pass_at_1_uncontaminated",
            forms.SHARE, f"Greedy pass@1 {where}",
        ),
    ]  # fmt: skip
    for k in ks:
        key, path = f"pass@{k}_uncontaminated", f"pass_at_uncontaminated.{k}"
        meaning = f"Sampled pass@{k} {where}"
        columns += [_sampled(k), Column(key, f"clean pass@{k}", path, forms.SHARE, meaning)]
    return columns


def _agreement(scope: str) -> list[Column]:
    path = f"agreement.{scope}"
    return [
        Column(f"{key}_{scope}", name, f"{path}.{field}", form, meaning, interval)
        for key, name, field, form, meaning, interval in (
            ("agreement_rows", "tokens", "num_rows", forms.COUNT, "Predictions compared.", ""),
            ("kl", "KL", "kl", forms.THREE_DIGITS,
             "KL(teacher ‖ model) at T = 1, nats a token; 95 % bootstrap interval over documents.",
             f"{path}.kl_interval"),
            ("top1_agreement", "top-1", "top1", forms.SHARE,
             "Tokens where both have the same most likely one; 95 % bootstrap interval over "
             "documents.", f"{path}.top1_interval"),
            ("top5_agreement", "top-5", "top5", forms.SHARE,
             "Tokens where the teacher's most likely one is among the model's five.", ""),
        )
    ] + [
        Column(f"{key}_{scope}", f"{whose}{name}", f"{path}.{key}", form, meaning)
        for field, name, form, meaning in (
            ("cross_entropy", "cross-entropy", forms.THREE_DIGITS, "Nats a token."),
            ("perplexity", "perplexity", forms.SHORT, "exp of the cross-entropy."),
            ("bits_per_byte", "bits/byte", forms.THREE_DIGITS, "Cross-entropy in bits over bytes."),
        )
        for whose, key in (("", field), ("teacher's ", f"teacher_{field}"))
    ]  # fmt: skip


def _times(path: str, suffix: str) -> list[Column]:
    """Times of generations, what a summary has room for first."""
    return [
        Column(f"{key}{suffix}", name, f"{path}.{key.removeprefix('latency_')}", form, meaning)
        for key, name, form, meaning in (
            ("latency_median_ms", "median ms", forms.SHORT, "Of a generation."),
            ("tokens_per_second", "tok/s", forms.SHORT, "New tokens of all prompts over time."),
            ("latency_mean_ms", "mean ms", forms.SHORT, "Of a generation."),
            ("latency_p95_ms", "p95 ms", forms.SHORT, "95th percentile of a generation."),
            ("first_token_ms", "first token ms", forms.SHORT, "Median time to the first token."),
            ("first_token_p95_ms", "first token p95 ms", forms.SHORT, "95th percentile of them."),
            ("per_token_ms", "next token ms", forms.SHORT, "Median of each further token."),
            ("per_token_p95_ms", "next token p95 ms", forms.SHORT, "95th percentile of them."),
            ("latency_peak_memory_bytes", "peak memory", forms.GIBIBYTES,
             "Most the CUDA device held."),
        )
    ]  # fmt: skip


def _deciding() -> list[Column]:
    """What one chooses a student by; the other tables say more."""
    shared = {
        column.key: column for column in [*AGAINST_THE_TEACHER, *COST, *_times("latency", "")]
    }
    return [
        shared["kept_percent"],
        GREEDY,
        Column("kl", "KL", "agreement.whole.kl", forms.THREE_DIGITS,
               "KL(teacher ‖ model) at T = 1, nats a token of held-out documents; none where the "
               "model's positions cut them; 95 % bootstrap interval.",
               "agreement.whole.kl_interval", unless=CUT),
        replace(DRAFTS[0], key="accepted", name="accepted as a draft", unless=CUT),
        shared["tokens_per_second"],
        shared["size_bytes"],
        Column("start", "start", "training.start", forms.TEXT, "A student's first weights."),
        Column("taught", "taught by", "training.taught", forms.TEXT,
               "Temperature T and weight α of the teacher's term."),
        Column("trained_tokens", "tokens trained", "training.tokens", forms.COUNT, "In all."),
        Column("trained_seconds", "time trained", "training.seconds", forms.HOURS,
               "In optimizer steps."),
    ]  # fmt: skip
