"""Documents as HTML, a box a token, and as JSON that shows the row behind each.

Whoever has no scripts sees tokens and entropies; page.js adds the rows and other colours.
"""

from bisect import bisect_right
from html import escape
from typing import Any

import numpy as np

from cache.machine.html_page import script_json
from cache.page.shown import Shown
from cache.page.token_texts import TokenTexts, visible_html, visible_text

MOST_TOKENS, MOST_ENTRIES = 1024, 16
"""Of a document, and of a row, that a page shows."""
NATS = (0.05, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
RANKS = (2, 3, 5, 9, 17, 65, 257, 1025, 4097)
"""Where the next colour begins: of entropies and surprisals, and of ranks from 1."""
PRECISION = 1000
"""Steps a nat in the JSON: finer than what is stored."""


def document_html(shown: Shown, document: int, texts: TokenTexts) -> str:
    """One document: its facts, and its tokens in reading order."""
    own = shown.tokens_of(document)
    number, num_tokens = int(shown.numbers[document]), own.stop - own.start
    loss = -float(shown.gold_logprob[shown.rows_of(document)].mean()) if num_tokens > 1 else 0.0
    facts = (
        f"task_id {shown.task_ids[document]} · {num_tokens:,} tokens, "
        f"{int(shown.counts[own].sum()):,} count · teacher's cross-entropy {loss:.2f} nats"
    )
    if num_tokens > MOST_TOKENS:
        facts += f" · cut here after {MOST_TOKENS:,} tokens"
    places = range(own.start, min(own.stop, own.start + MOST_TOKENS))
    boxes = "".join(_box(shown, place, place - document - 1, texts) for place in places)
    return (
        f'<article aria-labelledby="d{number}"><h2 id="d{number}">'
        f"{escape(shown.split)} {number} <small>{escape(facts)}</small></h2>"
        f'<div class="tokens" role="group" aria-label="Tokens of document {number}">{boxes}</div>'
        "</article>"
    )


def _box(shown: Shown, place: int, row: int, texts: TokenTexts) -> str:
    """One token. `row` predicts it, unless it is the first of its document."""
    token = texts.of(int(shown.token_ids[place]))
    is_first = place == shown.offsets[shown.document_of[place]]
    kinds = ["n" if is_first else f"h{bisect_right(NATS, float(shown.entropy[row]))}"]
    before = ""
    if shown.counts[place]:
        kinds.append("c")
    if token.special:
        kinds.append("k")
    if shown.begins[place]:
        kinds.append("b")
        if not is_first:
            before = '<hr aria-label="next text">'
    inside = visible_html(token.text)
    return f'{before}<span class="{" ".join(kinds)}">{inside}</span>'


def rows_json(shown: Shown, texts: TokenTexts, vocab_size: int) -> str:
    """Everything that page.js shows of a row; safe between script tags."""
    numbers: dict[int, int] = {}

    def number(token_id: int) -> int:
        return numbers.setdefault(token_id, len(numbers))

    documents = [_document(shown, d, number) for d in range(len(shown.task_ids))]
    known = [texts.of(token_id) for token_id in numbers]
    return script_json(
        {
            "precision": PRECISION,
            "nats": NATS,
            "ranks": RANKS,
            "vocab": vocab_size,
            "entries": shown.topk_ids.shape[1],
            "ids": list(numbers),
            "texts": [visible_text(token.text) for token in known],
            "raws": [visible_text(token.raw) for token in known],
            "documents": documents,
        }
    )


def _document(shown: Shown, document: int, number) -> dict[str, Any]:
    """Tokens of a document by their numbers, and its rows; row i predicts token i + 1."""
    tokens, rows = shown.tokens_of(document), shown.rows_of(document)
    tokens = slice(tokens.start, min(tokens.stop, tokens.start + MOST_TOKENS))
    rows = slice(rows.start, rows.start + tokens.stop - tokens.start - 1)
    logprobs = shown.topk_logprobs[rows]
    outside = np.clip(1 - np.exp(logprobs.astype(np.float64)).sum(1), 0, 1)
    entries = [
        [
            value
            for token_id, logprob in zip(ids.tolist(), own.tolist(), strict=True)
            if logprob > -np.inf
            for value in (number(token_id), round(-logprob * PRECISION))
        ]
        for ids, own in zip(
            shown.topk_ids[rows, :MOST_ENTRIES], logprobs[:, :MOST_ENTRIES], strict=True
        )
    ]
    return {
        "number": int(shown.numbers[document]),
        "tokens": [number(token_id) for token_id in shown.token_ids[tokens].tolist()],
        "entropy": _steps(shown.entropy[rows]),
        "surprisal": _steps(-shown.gold_logprob[rows]),
        "rank": (shown.gold_rank[rows] + 1).tolist(),
        "outside": [round(float(mass), 5) for mass in outside],
        "top": entries,
    }


def _steps(nats: np.ndarray) -> list[int]:
    finite = np.nan_to_num(nats.astype(np.float64), posinf=1e5)
    return np.rint(finite * PRECISION).astype(int).tolist()
