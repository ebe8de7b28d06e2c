"""The page in a real browser: hovering, keys, colours, light and dark, and a phone."""

import re

import pytest

from cache.page.page import to_html
from cache.page.shown import read_shown
from cache.page.token_texts import TokenTexts, visible_text
from tests.support.browser import attribute, browse, contrast, in_a_phone, luminance, needs_browser
from tests.support.hostile_tokenizer import HostileTokenizer
from tests.support.peaked_reader import PeakedReader

pytestmark = needs_browser
HOVERED = 40
PROBE = """<script>
  const text = (id) => document.getElementById(id).textContent;
  const groups = [...document.querySelectorAll(".tokens")];
  const boxes = (doc) => [...groups[doc].querySelectorAll("span")];
  const place = () => document.getElementById("panel").dataset.place;
  const press = (key) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const hover = (box) =>
    box.dispatchEvent(new PointerEvent("pointerover", { pointerType: "mouse", bubbles: true }));
  const panel = () => ({
    gold: text("gold"), seen: text("seen"), verdict: text("verdict"), place: place(),
    top: [...document.querySelectorAll("#top li")].map((li) =>
      [li.className, li.querySelector("code").textContent, li.querySelector(".value").textContent]),
    numbers: Object.fromEntries([...document.querySelectorAll("#numbers dt")].map((dt) =>
      [dt.textContent, dt.nextSibling.textContent])),
  });
  const colours = () => {
    const style = getComputedStyle(document.body);
    const heat = [...document.querySelectorAll("#legend-entropy li")].map((li) =>
      getComputedStyle(li).backgroundColor);
    const quiet = getComputedStyle(document.querySelector("header.top p")).color;
    return { ground: style.backgroundColor, ink: style.color, quiet, heat };
  };
  const level = (box) => Number(/\\bh(\\d)\\b/.exec(box.className)[1]);
  const seen = { width: innerWidth, overflow: document.documentElement.scrollWidth };
  seen.light = colours();
  document.getElementById("theme").click();
  seen.dark = colours();
  const stops = () => groups.map((_, doc) => boxes(doc).filter((box) => !box.tabIndex).length);
  seen.stops = stops();
  hover(boxes(1)[HOVERED]);
  seen.hovered = panel();
  hover(boxes(0)[0]);
  seen.first = panel();
  boxes(0)[0].focus();
  press("ArrowRight"); press("ArrowRight"); press("ArrowLeft");
  seen.walked = [place(), document.activeElement.getAttribute("aria-label")];
  press("End");
  seen.end = [place(), String(boxes(0).length - 1)];
  press("Home"); press("ArrowDown");
  seen.down = boxes(0).indexOf(document.activeElement);
  press("ArrowUp");
  seen.up = boxes(0).indexOf(document.activeElement);
  boxes(1)[7].click();
  seen.clicked = [place(), location.hash, stops()];
  seen.after = document.documentElement.scrollWidth;
  press("Escape");
  seen.closed = document.getElementById("row").hidden;
  seen.levels = {};
  for (const kind of ["entropy", "surprisal", "rank"]) {
    const control = document.getElementById("colour");
    control.value = kind;
    control.dispatchEvent(new Event("change"));
    seen.levels[kind] = boxes(0).slice(1).map(level);
    seen.levels[`${kind} legend`] = !document.getElementById(`legend-${kind}`).hidden;
  }
  seen.error = document.getElementById("script-error").hidden;
  parent.postMessage(JSON.stringify(seen), "*");
</script></body>""".replace("HOVERED", str(HOVERED))


@pytest.fixture(scope="module")
def opened(tiny_cache):
    with PeakedReader(tiny_cache) as reader:
        yield reader


@pytest.fixture(scope="module")
def texts(opened) -> TokenTexts:
    from transformers import AutoTokenizer

    return TokenTexts(AutoTokenizer.from_pretrained(opened.tokenizer_path))


@pytest.fixture(scope="module")
def page(opened, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(to_html(opened, read_shown(opened, "train", count=3), texts))
    return path


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    """What happens at a phone; the page's policy is lifted for the probe's own script."""
    return in_a_phone(page, PROBE, profile=tmp_path_factory.mktemp("profile"))


def test_an_address_opens_its_token_without_script_errors(page, tmp_path):
    document, console = browse(page, f"#d1t{HOVERED}", profile=tmp_path)
    assert console == []
    assert attribute(document, "ready") == "yes"
    assert re.search(f'data-place="1,{HOVERED}"', document)


def test_hovering_a_token_shows_the_row_that_predicts_it(seen, opened, texts):
    documents = opened.read("train", [1])
    row, shown = HOVERED - 1, seen["hovered"]
    ids = documents.token_ids.tolist()
    assert shown["place"] == f"1,{HOVERED}"
    assert shown["gold"] == visible_text(texts.of(ids[HOVERED]).text)
    before = "".join(visible_text(texts.of(i).text) for i in ids[HOVERED - 8 : HOVERED])
    assert shown["seen"] == f"…{before}"
    best, logprob = documents.targets.topk_ids[row, 0], documents.targets.topk_logprobs[row, 0]
    kind, name, value = shown["top"][0]
    assert name.removeprefix("✓ ") == visible_text(texts.of(int(best)).text)
    assert (kind == "is-gold") == (int(best) == ids[HOVERED])
    assert abs(float(value.split()[0]) / 100 - float(logprob.exp())) < 1e-3
    gold = [entry for entry in shown["top"] if entry[0] == "is-gold"]
    assert len(gold) == 1 and gold[0][1] == f"✓ {shown['gold']}"
    rank = int(opened.read_rows("train", [1], "gold_rank")[row]) + 1
    assert shown["numbers"]["rank"] == f"{rank} of 384"
    entropy = float(opened.read_rows("train", [1], "entropy")[row])
    assert shown["numbers"]["entropy"] == f"{entropy:.2f} nats"
    outside = 1 - float(documents.targets.topk_logprobs[row].exp().sum())
    assert abs(float(shown["numbers"]["outside the top 16"].split()[0]) / 100 - outside) < 1e-3
    assert shown["numbers"]["row"] == f"{row}, which predicts token {HOVERED}"


def test_hostile_tokens_stay_text_even_without_the_policy(opened, tmp_path):
    shown = read_shown(opened, "train", count=1)
    whole = to_html(opened, shown, TokenTexts(HostileTokenizer()))
    page = tmp_path / "hostile.html"
    page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole))
    for place in (5, 20, 30):
        document, console = browse(page, f"#d0t{place}", profile=tmp_path / "p")
        assert console == [] and attribute(document, "ready") == "yes"
        assert f'data-place="0,{place}"' in document and attribute(document, "hacked") is None


def test_the_first_token_of_a_document_has_no_row(seen):
    assert seen["first"]["verdict"] == "The first token of a document: no row predicts it."
    assert seen["first"]["seen"] == "nothing" and seen["first"]["top"] == []


def test_keys_walk_over_the_tokens_and_a_document_is_one_tab_stop(seen):
    assert seen["stops"] == [1, 1, 1]
    place, label = seen["walked"]
    assert place == "0,1" and re.search(r", probability .* %, rank \d+, does not count$", label)
    assert seen["end"][0] == f"0,{seen['end'][1]}"
    assert seen["down"] > 0 and seen["up"] == 0
    assert seen["clicked"] == ["1,7", "#d1t7", [1, 1, 1]]
    assert seen["closed"] is True and seen["error"] is True


def test_nothing_is_wider_than_a_phone(seen):
    assert seen["width"] == 360
    assert seen["overflow"] <= 360 and seen["after"] <= 360


def test_light_and_dark_are_readable_on_every_colour(seen):
    for theme, ground_is_light in (("light", True), ("dark", False)):
        found = seen[theme]
        assert (luminance(found["ground"]) > 0.5) == ground_is_light
        assert contrast(found["ground"], found["quiet"]) >= 4.5
        assert len(found["heat"]) == 10
        for heat in found["heat"][1:]:
            assert contrast(heat, found["ink"]) >= 4.5, (theme, heat)
        shades = [luminance(heat) for heat in found["heat"][1:]]
        assert shades == sorted(shades, reverse=ground_is_light)


def test_colours_show_entropy_surprise_or_rank(seen, opened):
    levels = seen["levels"]
    ranks = opened.read_rows("train", [0], "gold_rank") + 1
    assert [level == 0 for level in levels["rank"]] == (ranks == 1).tolist()
    surprisals = -opened.read_rows("train", [0], "gold_logprob")
    assert [level == 9 for level in levels["surprisal"]] == (surprisals >= 6).tolist()
    assert levels["entropy"] != levels["surprisal"]
    assert all(levels[f"{kind} legend"] for kind in ("entropy", "surprisal", "rank"))
