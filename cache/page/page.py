"""Documents of a cache, token by token, as one page that needs no network.

Whatever a data set or a tokenizer wrote is escaped, or travels as JSON that the script puts on the
page as text. The page's policy lets no other script run and nothing be fetched.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from cache.machine.durable import write_text
from cache.machine.html_page import html_page
from cache.page.health import FINE, Check, check_health
from cache.page.shown import Shown, read_shown
from cache.page.token_texts import TokenTexts
from cache.page.tokens import NATS, RANKS, document_html, rows_json
from cache.reading.reader import CacheReader
from cache.storage.facts import identity_facts
from cache.targets.fidelity import Fidelity


def write_page(
    reader: CacheReader, tokenizer, path: Path, *, split: str, first: int = 0, count: int = 8
) -> None:
    """Write a page of `count` documents of a split, from the one numbered `first`.

    Raises:
        CacheError: no such split or document, too many documents, or the file cannot be written.
    """
    shown = read_shown(reader, split, first=first, count=count)
    write_text(path, to_html(reader, shown, TokenTexts(tokenizer)))


def to_html(reader: CacheReader, shown: Shown, texts: TokenTexts) -> str:
    """The whole page."""
    checks = check_health(shown, reader.identity, texts)
    documents = range(len(shown.task_ids))
    body = (
        _top(reader, shown)
        + _health(checks, len(documents))
        + _facts(reader, texts)
        + _toolbar(shown)
        + '<div class="columns"><main>'
        + "".join(document_html(shown, document, texts) for document in documents)
        + f"</main>{PANEL}</div>"
        + '<script type="application/json" id="rows">'
        + rows_json(shown, texts, reader.vocab_size)
        + "</script>"
    )
    title = f"Cache of {_last_part(reader.identity.teacher)}"
    page = html_page(title, body, style=_asset("page.css"), script=_asset("page.js"))
    return page.encode("utf-8", "replace").decode()  # a path may hold what UTF-8 does not


def _asset(name: str) -> str:
    return (resources.files("cache.page") / name).read_text(encoding="utf-8")


def _top(reader: CacheReader, shown: Shown) -> str:
    identity, numbers = reader.identity, shown.numbers
    facts = (
        f"{shown.split}: documents {numbers[0]} to {numbers[-1]} of "
        f"{reader.num_documents(shown.split):,}. Every colour and every number belongs to the row "
        "that predicts the token it stands at."
    )
    title = f"{_last_part(identity.teacher)} on {_last_part(identity.dataset)}"
    return (
        f'<header class="top"><div><h1>{escape(title)}</h1><p>{escape(facts)}</p></div>'
        '<button id="theme" class="js-only" type="button" title="Light or dark">'
        "◐<span hidden> Light or dark</span></button></header>"
        '<p id="script-error" class="notice alarm" role="alert" hidden></p>'
    )


def _health(checks: Sequence[Check], num_documents: int) -> str:
    worst = checks[0].state
    wrong = sum(check.state != FINE for check in checks)
    head = "nothing suspicious" if not wrong else f"{wrong} of {len(checks)} checks need a look"
    items = "".join(
        f'<li class="{check.state}"><b>{"✓ fine" if check.state == FINE else "! " + check.state}'
        f"</b> <span>{escape(check.sentence)}</span></li>"
        for check in checks
    )
    return (
        f'<section class="notice {worst}" aria-labelledby="health"><h2 id="health">Health of the '
        f"{num_documents} document{'s' * (num_documents > 1)} below: {head}</h2>"
        f'<ul class="checks">{items}</ul></section>'
    )


def _facts(reader: CacheReader, texts: TokenTexts) -> str:
    identity, created = reader.identity, reader.manifest.created
    known = identity_facts(identity)
    facts = {name: known[name] for name in ("teacher", "dataset", "template")}
    before = texts.joined(identity.texts.prefix_ids) or "nothing"
    facts["before texts"] = identity.texts.words(before)
    facts |= {name: known[name] for name in ("targets", "vocabulary", "format")}
    facts["built"] = ", ".join(str(created[name]) for name in ("date", "device"))
    return (
        f'<details class="facts" open><summary>What this cache is</summary><div>{_pairs(facts)}'
        f"{_fidelity(reader.fidelity())}</div></details>"
    )


def _fidelity(fidelity: Sequence[Fidelity]) -> str:
    if not fidelity:
        return "<p>Fidelity was not measured.</p>"
    lines = "".join(
        f'<tr><th scope="row">{row.temperature:g}</th><td>{row.captured:.3f}</td>'
        f"<td>{row.total_variation:.4f}</td><td>{row.kl:.4f}</td>"
        f"<td>{'' if row.mass_error is None else f'{row.mass_error:.4f}'}</td></tr>"
        for row in fidelity
    )
    return (
        f"<table><caption>Fidelity over {fidelity[0].num_rows:,} rows</caption><thead><tr>"
        '<th scope="col">T</th><th scope="col">in the top-k</th>'
        '<th scope="col"><abbr title="total variation">TV</abbr></th>'
        '<th scope="col">KL, nats</th><th scope="col">mass, at most off by</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _pairs(values: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in values.items())
    return f"<dl>{''.join(items)}</dl>"


def _toolbar(shown: Shown) -> str:
    links = "".join(f'<a href="#d{number}">{number}</a>' for number in shown.numbers)
    return (
        f'<div class="toolbar"><nav aria-label="Documents"><span>document</span>{links}</nav>'
        '<label class="js-only">colour <select id="colour">'
        '<option value="entropy">entropy of the row</option>'
        '<option value="surprisal">surprise: −log p of the token</option>'
        '<option value="rank">rank of the token</option></select></label>'
        f"{_legend('entropy', 'nats', NATS)}{_legend('surprisal', 'nats', NATS)}"
        f"{_legend('rank', 'rank', RANKS)}"
        '<p class="key"><span class="c">counts</span> <span>prompt</span> '
        '<span class="k">special</span> <span class="b">begins</span></p></div>'
    )


def _legend(name: str, unit: str, bounds: Sequence[float]) -> str:
    starts = [1 if name == "rank" else 0, *bounds]
    steps = "".join(f'<li class="h{place}">{start:g}</li>' for place, start in enumerate(starts))
    shown = "" if name == "entropy" else " hidden"
    return (
        f'<div class="legend" id="legend-{name}"{shown}><span>{unit} from</span>'
        f'<ol aria-label="Scale of {name}">{steps}</ol></div>'
    )


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


PANEL = (
    '<aside id="panel" class="js-only" aria-label="The row that predicts a token">'
    '<p class="hint">Point at a token, tap it, or walk with the arrow keys: here stands what the '
    "teacher expected in its place.</p>"
    '<div id="row" hidden><button id="close" type="button" aria-label="Close">×</button>'
    '<p class="seen">after <code id="seen"></code></p>'
    '<p class="gold">stands <code id="gold"></code> <span id="gold-name"></span></p>'
    '<p id="verdict"></p><ol id="top"></ol><dl id="numbers"></dl></div></aside>'
)
