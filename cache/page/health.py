"""What can be said of a cache without looking: is it aligned, and do its texts begin and end well.

Each check is a plain sentence. A check warns where something is unlikely to be meant, and alarms
where rows and tokens do not belong together.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cache.page.shown import Shown
from cache.page.token_texts import TokenTexts
from cache.storage.identity import Identity

FINE, WARN, ALARM = "fine", "warn", "alarm"
SURE = 2.0
"""Standard errors by which a shift must be better than none to be called one."""
LEAST_RATE = 0.1
"""Rate that it must have, too: a teacher of random weights likes some neighbours better."""
TOLERANCE = 0.05, 0.03
"""Nats, and the share of a logprob, within which two stored forms of it agree."""
MOST_DISAGREEING = 0.01
"""Share of rows that may disagree: equal logits of a 16-bit teacher are ranked at will."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    state: str
    """FINE, WARN or ALARM."""
    sentence: str


def check_health(shown: Shown, identity: Identity, texts: TokenTexts) -> list[Check]:
    """All checks of some documents, the gravest first."""
    checks = [
        *_alignment(shown),
        *_cross_entropy(shown, identity.vocab_size),
        *_agreement(shown),
        *_counting(shown),
        *_beginnings(shown, identity, texts),
        *_ends(shown, identity, texts),
    ]
    return sorted(checks, key=lambda check: (ALARM, WARN, FINE).index(check.state))


def hit_rates(shown: Shown) -> dict[int, np.ndarray]:
    """Whether each row's first choice is the token it predicts (0), the one before or behind it.

    Rows whose token has no neighbour in its document are left out, from all three alike. So are
    rows whose three tokens are not three different ones: they tell nothing.
    """
    places = shown.places
    has_next = places + 1 < len(shown.token_ids)
    has_next[has_next] = (
        shown.document_of[places[has_next] + 1] == shown.document_of[places[has_next]]
    )
    rows = np.flatnonzero(has_next)
    tokens = {by: shown.token_ids[places[rows] + by] for by in (-1, 0, 1)}
    told = (tokens[-1] != tokens[0]) & (tokens[0] != tokens[1]) & (tokens[-1] != tokens[1])
    first = shown.topk_ids[rows[told], 0]
    return {by: first == those[told] for by, those in tokens.items()}


def _alignment(shown: Shown) -> Iterator[Check]:
    """A row's first choice must hit the token it predicts more often than either neighbour."""
    hits = hit_rates(shown)
    num_rows = len(hits[0])
    if not num_rows:
        return
    rates = {by: float(hit.mean()) for by, hit in hits.items()}
    said = (
        f"The teacher's first choice is the token it predicts in {_percent(rates[0])} of rows, "
        f"the token before that in {_percent(rates[-1])}, the one after it in "
        f"{_percent(rates[1])}"
    )
    better = max((-1, 1), key=lambda by: rates[by])
    lead = float((hits[better].astype(int) - hits[0]).sum())
    error = math.sqrt(float((hits[better] != hits[0]).sum()))
    if lead > SURE * error and rates[better] >= LEAST_RATE:
        what = "after" if better == 1 else "before"
        yield Check(
            state=ALARM,
            sentence=f"{said}: the cache is misaligned. Its rows fit the token {what} the one they "
            "stand at, so students would learn a shifted teacher. Build it again.",
        )
    elif lead >= 0:
        yield Check(
            state=WARN,
            sentence=f"{said}: no better than shifted by one, so that alignment cannot be told.",
        )
    else:
        yield Check(state=FINE, sentence=f"{said}: aligned.")


def _cross_entropy(shown: Shown, vocab_size: int) -> Iterator[Check]:
    """The teacher must know its own texts better than somebody who guesses does."""
    limit = math.log(vocab_size) / 2
    counts = shown.counts[shown.places]
    blind = shown.begins[shown.places] & shown.isolated
    first = shown.topk_ids[:, 0] == shown.token_ids[shown.places]
    stored = (_gold_entries(shown) & np.isfinite(shown.topk_logprobs)).any(1)
    for name, rows in (("rows that count", counts), ("rows of prompts", ~counts & ~blind)):
        if not rows.any():
            continue
        loss = -float(shown.gold_logprob[rows].astype(np.float64).mean())
        said = (
            f"Over {rows.sum():,} {name} the teacher's cross-entropy is {loss:.3f} nats a token "
            f"(perplexity {_perplexity(loss)}); the token that follows is its first choice in "
            f"{_percent(first[rows].mean())} and among the stored {shown.topk_ids.shape[1]} in "
            f"{_percent(stored[rows].mean())}"
        )
        if loss > limit:
            yield Check(
                state=WARN,
                sentence=f"{said}. That costs more than half of what guessing does (ln V / 2 = "
                f"{limit:.2f} nats): it hardly knows these texts. Look at template, tokenizer and "
                "teacher.",
            )
        else:
            yield Check(state=FINE, sentence=f"{said}.")


def _agreement(shown: Shown) -> Iterator[Check]:
    """What was noted of a row's gold token must be what its entries say of the document's token."""
    used = np.isfinite(shown.topk_logprobs)
    entries = _gold_entries(shown) & used
    inside = entries.any(1)
    gold = shown.gold_logprob.astype(np.float64)
    stored = np.where(entries, shown.topk_logprobs, -np.inf).max(1)
    least = np.where(used, shown.topk_logprobs, np.inf).min(1)
    room = TOLERANCE[0] + TOLERANCE[1] * np.abs(gold)
    agrees = np.where(inside, np.abs(np.where(inside, stored, 0.0) - gold) <= room, True)
    agrees &= inside | (gold <= least + room)
    share = float(agrees.mean())
    said = (
        "The logprob noted for the token that follows agrees with the stored entries in "
        f"{_percent(share)} of {len(agrees):,} rows"
    )
    if share < 1 - MOST_DISAGREEING:
        yield Check(
            state=ALARM,
            sentence=f"{said}: rows and tokens do not belong together. Build the cache again.",
        )
    else:
        yield Check(state=FINE, sentence=f"{said}.")


def _counting(shown: Shown) -> Iterator[Check]:
    share = shown.counts.sum(), len(shown.places)
    said = f"Training on what the assistant wrote counts {share[0]:,} of {share[1]:,} rows"
    empty = [d for d in range(len(shown.task_ids)) if not shown.counts[shown.tokens_of(d)].any()]
    if empty:
        yield Check(state=WARN, sentence=f"{said}, and none of {_documents(shown, empty)}.")
    else:
        yield Check(state=FINE, sentence=f"{said}.")


def _beginnings(shown: Shown, identity: Identity, texts: TokenTexts) -> Iterator[Check]:
    """Texts must begin with what was put before them, once."""
    prefix = np.array(identity.texts.prefix_ids, dtype=np.int64)
    starts = np.flatnonzero(shown.begins)
    what = f"{len(starts)} texts"
    if not len(prefix):
        yield from _bare_beginnings(shown, identity, texts, starts)
        return
    ends_of = shown.offsets[1:][shown.document_of[starts]]
    name = texts.joined(prefix)
    wrong, twice = [], []
    for start, stop in zip(starts.tolist(), ends_of.tolist(), strict=True):
        own = shown.token_ids[start:stop]
        document = int(shown.document_of[start])
        length = min(len(prefix), len(own))  # a corpus is cut wherever a document is full
        if not np.array_equal(own[:length], prefix[:length]):
            wrong.append(document)
        elif np.array_equal(own[len(prefix) : 2 * len(prefix)], prefix):
            twice.append(document)
    if wrong:
        yield Check(
            state=ALARM,
            sentence=f"The cache says that {name} is put before every text, but {len(wrong)} of "
            f"{what} begin without it: those of {_documents(shown, wrong)}.",
        )
    if twice:
        yield Check(
            state=WARN,
            sentence=f"{name} stands twice at the beginning of {_documents(shown, twice)}: the "
            "data bring it along, or the template.",
        )
    if not wrong and not twice:
        yield Check(state=FINE, sentence=f"All {what} begin with {name}, as the cache says, once.")


def _bare_beginnings(
    shown: Shown, identity: Identity, texts: TokenTexts, starts: np.ndarray
) -> Iterator[Check]:
    firsts = sorted(set(shown.token_ids[starts].tolist()))
    if identity.texts.chat_template_sha256:
        names = ", ".join(texts.joined([one]) for one in firsts[:3])
        more = " and others" if len(firsts) > 3 else ""
        yield Check(
            state=FINE if len(firsts) == 1 else WARN,
            sentence=f"Conversations begin as the chat template begins them: {names}{more}.",
        )
        return
    added = texts.put_before_texts
    if added:
        yield Check(
            state=WARN,
            sentence=f"Nothing is put before texts, though this tokenizer itself puts "
            f"{texts.joined(added)} there: the teacher reads them as it was not trained to "
            "(--bos auto).",
        )
    else:
        yield Check(
            state=FINE, sentence="Nothing is put before texts, and this tokenizer adds nothing."
        )


def _ends(shown: Shown, identity: Identity, texts: TokenTexts) -> Iterator[Check]:
    """The last token that counts must say that the text is over, unless the text was cut."""
    # Of packed texts each ends where the next begins; the last of a document may be cut.
    inner = np.flatnonzero(shown.begins) - 1
    inner = inner[(inner >= 0) & ~np.isin(inner, shown.offsets[1:] - 1)]
    ends = [(int(place), int(shown.document_of[place])) for place in inner]
    num_cut, packed = 0, len(inner) > 0
    for document in range(len(shown.task_ids)):
        own = shown.tokens_of(document)
        counted = np.flatnonzero(shown.by_assistant[own])
        place = own.start + int(counted[-1]) if len(counted) else own.stop - 1
        closed = int(shown.token_ids[place]) in texts.special_ids
        if not closed and (packed or own.stop - own.start >= identity.max_length):
            num_cut += 1
        else:
            ends.append((place, document))
    cut = f" ({num_cut} more are cut where their document is full)" if num_cut else ""
    open_ones = [d for place, d in ends if int(shown.token_ids[place]) not in texts.special_ids]
    if open_ones:
        yield Check(
            state=WARN,
            sentence=f"{len(open_ones)} of {len(ends)} texts have no end token{cut}: those of "
            f"{_documents(shown, open_ones)}. Students would not learn when to stop.",
        )
        return
    names = sorted({int(shown.token_ids[place]) for place, _ in ends})
    closed_by = " or ".join(texts.joined([name]) for name in names[:3])
    said = f"All {len(ends)} texts end with {closed_by}{cut}." if names else f"No text ends{cut}."
    yield Check(state=FINE, sentence=said)


def _gold_entries(shown: Shown) -> np.ndarray:
    """(R, K) bool: which entries are the token that follows."""
    return shown.topk_ids == shown.token_ids[shown.places][:, None]


def _documents(shown: Shown, documents: Sequence[int]) -> str:
    numbers = [str(shown.numbers[d]) for d in sorted(set(documents))]
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"document{'s' * (len(numbers) > 1)} {', '.join(numbers[:5])}{more}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _perplexity(loss: float) -> str:
    return f"{math.exp(min(loss, 700)):,.3g}"
