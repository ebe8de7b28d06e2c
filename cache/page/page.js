"use strict";
// Texts of documents and tokenizers reach the page through textContent alone.
(() => {
  const page = document.documentElement;
  const byId = (id) => document.getElementById(id);
  window.addEventListener("error", (event) => {
    const notice = byId("script-error");
    notice.hidden = false;
    notice.textContent = `The page's script failed: ${event.message}`;
  });
  page.classList.add("js");

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Light and dark
  const stored = {
    get() { try { return localStorage.getItem("inspect-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("inspect-theme", value); } catch { /* private mode */ } },
  };
  const theme = stored.get();
  if (theme === "light" || theme === "dark") page.dataset.theme = theme;
  byId("theme").addEventListener("click", () => {
    const dark = page.dataset.theme
      ? page.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    page.dataset.theme = dark ? "light" : "dark";
    stored.set(page.dataset.theme);
  });

  // Row t of a document predicts its token t + 1; `place` is that of the token.
  const data = JSON.parse(byId("rows").textContent);
  const groups = [...document.querySelectorAll(".tokens")];
  const boxes = groups.map((group) => [...group.querySelectorAll("span")]);
  const where = new Map();
  boxes.forEach((own, doc) => own.forEach((box, place) => where.set(box, [doc, place])));
  const percent = (share) => {
    const hundredths = 100 * share;
    if (hundredths > 0 && hundredths < 0.01) return "<0.01 %";
    return `${hundredths.toFixed(hundredths < 9.995 ? 2 : 1)} %`;
  };
  const nats = (steps) => `${(steps / data.precision).toFixed(2)} nats`;
  const shown = (text) => text || "∅";

  // What colours show
  const colour = byId("colour");
  function paint() {
    const bounds = colour.value === "rank" ? data.ranks : data.nats.map((n) => n * data.precision);
    boxes.forEach((own, doc) => own.forEach((box, place) => {
      if (!place) return;
      const value = data.documents[doc][colour.value][place - 1];
      const level = bounds.filter((bound) => value >= bound).length;
      box.className = box.className.replace(/\bh\d\b/, `h${level}`);
    }));
    for (const legend of document.querySelectorAll(".legend")) {
      legend.hidden = legend.id !== `legend-${colour.value}`;
    }
  }
  colour.addEventListener("change", paint);

  // The row behind a token
  let current = null;
  const loss = (doc, place) =>
    (boxes[doc][place].classList.contains("c") ? "counts" : "does not count");

  function describe(doc, place) {
    const own = data.documents[doc];
    const text = shown(data.texts[own.tokens[place]]);
    if (!place) return `${text}, first token`;
    const p = percent(Math.exp(-own.surprisal[place - 1] / data.precision));
    return `${text}, probability ${p}, rank ${own.rank[place - 1]}, ${loss(doc, place)}`;
  }

  function entry(text, share, kind) {
    const item = element("li", kind);
    const bar = element("div", "bar");
    const filled = element("span");
    filled.style.width = `${100 * share}%`;
    bar.append(filled);
    const name = element("code", "", text);
    name.title = text;
    item.append(name, bar, element("span", "value", percent(share)));
    return item;
  }

  function pairs(list, values) {
    list.replaceChildren(...Object.entries(values).flatMap(
      ([name, value]) => [element("dt", "", name), element("dd", "", value)],
    ));
  }

  function drawRow(doc, place) {
    const own = data.documents[doc];
    const row = place - 1;
    const gold = own.tokens[place];
    const top = own.top[row];
    const p = Math.exp(-own.surprisal[row] / data.precision);
    const items = [];
    let inside = false;
    let others = 1;
    for (let i = 0; i < top.length; i += 2) {
      const isGold = top[i] === gold;
      inside ||= isGold;
      const share = Math.exp(-top[i + 1] / data.precision);
      others -= share;
      const mark = isGold ? "✓ " : "";
      items.push(entry(mark + shown(data.texts[top[i]]), share, isGold ? "is-gold" : ""));
    }
    if (!inside) items.push(entry(`✓ ${shown(data.texts[gold])}`, p, "is-gold"));
    items.push(entry(inside ? "all others" : "all others with it", Math.max(0, others), "rest"));
    byId("top").replaceChildren(...items);
    const rank = own.rank[row];
    byId("verdict").textContent = rank === 1
      ? "the teacher's first choice"
      : `the teacher's choice number ${rank.toLocaleString("en")}`;
    pairs(byId("numbers"), {
      probability: percent(p),
      logprob: `${(-own.surprisal[row] / data.precision).toFixed(2)} nats`,
      rank: `${rank.toLocaleString("en")} of ${data.vocab.toLocaleString("en")}`,
      entropy: nats(own.entropy[row]),
      [`outside the top ${data.entries}`]: percent(own.outside[row]),
      row: `${row}, which predicts token ${place}`,
      training: loss(doc, place),
    });
  }

  function show(box) {
    const [doc, place] = where.get(box);
    if (current) {
      current.classList.remove("now");
      const [oldDoc, oldPlace] = where.get(current);
      boxes[oldDoc][oldPlace - 1]?.classList.remove("last-seen");
    }
    current = box;
    box.classList.add("now");
    boxes[doc][place - 1]?.classList.add("last-seen");
    const own = data.documents[doc];
    const gold = own.tokens[place];
    document.querySelector("#panel .hint").hidden = true;
    byId("row").hidden = false;
    byId("panel").dataset.place = `${doc},${place}`;
    const seen = own.tokens.slice(Math.max(0, place - 8), place).map((n) => data.texts[n]);
    byId("seen").textContent = (place > 8 ? "…" : "") + (seen.join("") || "nothing");
    byId("gold").textContent = shown(data.texts[gold]);
    byId("gold-name").textContent = `id ${data.ids[gold]}, spelt ${data.raws[gold]}`;
    if (place) {
      drawRow(doc, place);
    } else {
      byId("verdict").textContent = "The first token of a document: no row predicts it.";
      byId("top").replaceChildren();
      byId("numbers").replaceChildren();
    }
  }

  function choose(box) {
    const [doc, place] = where.get(box);
    for (const other of boxes[doc]) if (other.tabIndex === 0) other.tabIndex = -1;
    box.tabIndex = 0;
    box.setAttribute("role", "button");
    box.setAttribute("aria-label", describe(doc, place));
    show(box);
  }

  // The nearest token on the line above or below.
  function beside(box, down) {
    const [doc, place] = where.get(box);
    const from = box.getClientRects()[0];
    const step = down ? 1 : -1;
    let best = null;
    let line = null;
    for (let i = place + step; i >= 0 && i < boxes[doc].length; i += step) {
      const found = boxes[doc][i].getClientRects()[0];
      if (Math.abs(found.top - from.top) < 6) continue;
      if (line !== null && Math.abs(found.top - line) >= 6) break;
      line = found.top;
      const distance = Math.abs(found.left - from.left);
      if (!best || distance < best.distance) best = { distance, box: boxes[doc][i] };
    }
    return best?.box;
  }

  const boxAt = (event) => event.target.closest?.(".tokens > span");
  groups.forEach((group, doc) => {
    if (boxes[doc].length) boxes[doc][0].tabIndex = 0;
    group.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "touch" && boxAt(event)) show(boxAt(event));
    });
    group.addEventListener("focusin", (event) => { if (boxAt(event)) choose(boxAt(event)); });
    group.addEventListener("click", (event) => {
      const box = boxAt(event);
      if (!box) return;
      choose(box);
      box.focus({ preventScroll: true });
      const place = where.get(box)[1];
      history.replaceState(null, "", `#d${data.documents[doc].number}t${place}`);
    });
    group.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || !boxAt(event)) return;
      const own = boxes[doc];
      const place = where.get(boxAt(event))[1];
      const next = {
        ArrowLeft: () => own[place - 1], ArrowRight: () => own[place + 1],
        ArrowUp: () => beside(own[place], false), ArrowDown: () => beside(own[place], true),
        Home: () => own[0], End: () => own[own.length - 1],
      }[event.key];
      if (!next) return;
      event.preventDefault();
      const box = next();
      if (!box) return;
      box.tabIndex = -1;
      box.focus();
    });
  });

  function close() {
    byId("row").hidden = true;
    document.querySelector("#panel .hint").hidden = false;
  }
  byId("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  // The address may name a token: #d3t57.
  function applyAddress() {
    const found = /^#d(\d+)t(\d+)$/.exec(location.hash);
    if (!found) return;
    const doc = data.documents.findIndex(({ number }) => number === Number(found[1]));
    const box = boxes[doc]?.[Number(found[2])];
    if (!box) return;
    choose(box);
    box.scrollIntoView({ block: "center" });
  }
  window.addEventListener("hashchange", applyAddress);
  applyAddress();
  page.dataset.ready = "yes";
})();
