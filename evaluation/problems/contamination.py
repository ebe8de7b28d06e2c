"""Which benchmark problems share text with a cache's training documents.

A student that has read a problem or its answer proves nothing by solving it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import CacheError
from cache.reading.reader import CacheReader
from evaluation.errors import EvaluationError
from evaluation.problems.benchmarks import BenchmarkProblem

NGRAM_WORDS = 13
SPLIT = "train"
DOCUMENTS_AT_ONCE = 64

Ngram = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """What a benchmark's problems share with training documents."""

    cache: str
    """Folder of the cache the documents are in."""
    identity_hash: str
    """Names the cache's content, as a student's run.json does."""
    n: int
    """Words in a row that a problem and a document must share."""
    num_documents: int
    """Training documents read."""
    contaminated: dict[str, float]
    """Share in (0, 1] of a problem's n-grams that are in some document, by task id; problems
    that share nothing are not named."""
    examples: dict[str, str]
    """One shared n-gram of each of those problems."""


def measure_contamination(cache: Path, problems: Sequence[BenchmarkProblem]) -> Contamination:
    """Overlap of the problems' prompts and canonical solutions with the cache's train split.

    Raises: EvaluationError when the cache cannot be read or has no train split.
    """
    try:
        with CacheReader(cache) as reader:
            identity_hash, num_documents = reader.identity_hash, reader.num_documents(SPLIT)
            contaminated, examples = find_overlaps(problems, _read_documents(reader))
    except CacheError as error:
        raise EvaluationError(
            f"contamination cannot be checked: {error} Name the cache the students were trained "
            "from in --cache"
        ) from error
    return Contamination(
        cache=str(cache),
        identity_hash=identity_hash,
        n=NGRAM_WORDS,
        num_documents=num_documents,
        contaminated=contaminated,
        examples=examples,
    )


def contamination_remarks(
    contamination: Contamination | None, checkpoints: Sequence[Path], num_problems: int
) -> list[str]:
    """What was found, and which students were trained on documents that were not looked at."""
    caches = {path: _training_cache(path) for path in checkpoints}
    if contamination is None:
        named = sorted({cache["path"] for cache in caches.values() if "path" in cache})
        where = f"--cache {named[0]}" if named else "--cache with the students' cache"
        return [f"Contamination was not checked; {where} does it."] if checkpoints else []
    found = (
        f"{len(contamination.contaminated) or 'None'} of {num_problems} problems share "
        f"{contamination.n} words in a row with the {contamination.num_documents} training "
        f"documents in {contamination.cache}"
    )
    if contamination.contaminated:
        worst = max(contamination.contaminated, key=lambda task: contamination.contaminated[task])
        share = f"{contamination.contaminated[worst]:.0%} of its runs of {contamination.n}"
        found += f"; most: {worst} ({share}), such as “{contamination.examples[worst]}”"
    others = [
        f"{path} was trained from another cache ({cache['path']}) than the one checked for "
        f"contamination ({contamination.cache})."
        for path, cache in caches.items()
        if cache.get("identity_hash", contamination.identity_hash) != contamination.identity_hash
    ]
    return [f"{found}.", *others]


def _training_cache(checkpoint: Path) -> dict[str, Any]:
    """What a student's run.json says of its cache; empty where there is none."""
    try:
        run = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
        return {name: str(run["cache"][name]) for name in ("path", "identity_hash")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read_documents(reader: CacheReader) -> Iterator[str]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(reader.tokenizer_path)
    total = reader.num_documents(SPLIT)
    for start in range(0, total, DOCUMENTS_AT_ONCE):
        documents = reader.read(SPLIT, range(start, min(start + DOCUMENTS_AT_ONCE, total)))
        for first, last in zip(
            documents.token_offsets[:-1], documents.token_offsets[1:], strict=True
        ):
            yield tokenizer.decode(
                documents.token_ids[first:last].tolist(),
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )


def find_overlaps(
    problems: Sequence[BenchmarkProblem], documents: Iterable[str], n: int = NGRAM_WORDS
) -> tuple[dict[str, float], dict[str, str]]:
    """Share of shared n-grams and an example, by task id of the problems that share any.

    Words are runs of letters and digits in lower case: layout, punctuation and underscores do
    not hide a copy, and `for i in range(len(x)):` alone is no match. A problem shorter than n
    words is looked for as a whole.

    Source: Brown et al. 2020 (GPT-3), appendix C, N = 13; without its rule that n-grams seen
        more than ten times do not count, which would excuse a problem that was copied often.
    """
    wanted: dict[Ngram, set[str]] = {}
    totals: dict[str, int] = {}
    for problem in problems:
        words = split_words(problem.prompt + "\n" + problem.canonical_solution)
        ngrams = set(_ngrams(words, min(n, len(words))))
        totals[problem.task_id] = len(ngrams)
        for ngram in ngrams:
            wanted.setdefault(ngram, set()).add(problem.task_id)
    sizes = {len(ngram) for ngram in wanted}
    shared: dict[str, set[Ngram]] = {}
    for document in documents:
        words = split_words(document)
        for size in sizes:
            for ngram in _ngrams(words, size):
                for task_id in wanted.get(ngram, ()):
                    shared.setdefault(task_id, set()).add(ngram)
    found = [problem.task_id for problem in problems if problem.task_id in shared]
    return (
        {task_id: len(shared[task_id]) / totals[task_id] for task_id in found},
        {task_id: " ".join(min(shared[task_id])) for task_id in found},
    )


def split_words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def _ngrams(words: Sequence[str], n: int) -> Iterator[Ngram]:
    if n > 0:
        yield from (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
