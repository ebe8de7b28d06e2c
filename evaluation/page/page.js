"use strict";
// Texts from models reach the page through textContent alone.
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

  // The address after # holds what is shown, so that a view can be sent to somebody.
  const defaults = {
    theme: "", quality: "", problem: "", model: "", show: "greedy", filter: "all", outcome: "", q: "",
  };
  const state = { ...defaults };
  const isState = () => location.hash.includes("=");

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(defaults)) state[name] = given.get(name) ?? defaults[name];
  }

  function writeAddress() {
    const changed = Object.entries(state).filter(([name, value]) => value !== defaults[name]);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", `#${hash}`);
  }

  // Light and dark
  const stored = {
    get() { try { return localStorage.getItem("report-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("report-theme", value); } catch { /* private mode */ } },
  };
  function applyTheme() {
    const theme = state.theme || stored.get();
    if (theme === "light" || theme === "dark") page.dataset.theme = theme;
  }
  byId("theme").addEventListener("click", () => {
    const dark = page.dataset.theme
      ? page.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    page.dataset.theme = dark ? "light" : "dark";
    stored.set(page.dataset.theme);
    state.theme = "";
    if (isState()) writeAddress();
  });

  // Which quality the cost charts show
  const quality = byId("quality");
  function applyQuality() {
    if (!quality) return;
    const known = [...quality.options].some((option) => option.value === state.quality);
    quality.value = known ? state.quality : quality.options[0].value;
    for (const panel of document.querySelectorAll(".panel")) {
      panel.classList.toggle("on", panel.dataset.quality === quality.value);
    }
  }
  quality?.addEventListener("change", () => {
    state.quality = quality.value;
    applyQuality();
    writeAddress();
  });

  // The browser of problems
  const block = byId("samples");
  const data = block ? JSON.parse(block.textContent) : null;
  const controls = ["model", "show", "filter", "outcome", "q"];
  let matching = [];

  function answer(model, problem) {
    const [cells, number] =
      state.show === "greedy" ? [data.greedy, 0] : [data.sampled, Number(state.show) - 1];
    const cell = cells[model][problem][number];
    if (!cell) return null;
    const [text, outcome, message, finish] = cell.slice(0, 4).map((index) => data.texts[index]);
    return { text, outcome, message, finish, tokens: cell[4], passed: outcome === "passed" };
  }

  function shownModels() {
    const all = data.models.map((_, index) => index);
    const chosen = data.models.findIndex((model) => model.label === state.model);
    return chosen < 0 ? all : all.filter((index) => index === chosen || data.models[index].teacher);
  }

  const FILTERS = {
    all: () => true,
    differs: (teacher, students) => students.some((passed) => passed !== teacher),
    "only-teacher": (teacher, students) => teacher && students.every((passed) => !passed),
    "only-student": (teacher, students) => !teacher && students.some((passed) => passed),
    every: (teacher, students) => teacher !== false && students.every((passed) => passed),
    none: (teacher, students) => !teacher && students.every((passed) => !passed),
    contaminated: (teacher, students, problem) => problem.contaminated,
  };

  function matches(problem) {
    const answers = shownModels().map((model) => [data.models[model], answer(model, problem)]);
    const given = answers.filter(([, found]) => found);
    const teacher = given.find(([model]) => model.teacher)?.[1].passed;
    const students = given.filter(([model]) => !model.teacher).map(([, found]) => found.passed);
    const filter = FILTERS[state.filter] ?? FILTERS.all;
    if (!filter(teacher, students, data.problems[problem])) return false;
    if (state.outcome && !given.some(([, found]) => found.outcome === state.outcome)) return false;
    const wanted = state.q.toLowerCase();
    if (!wanted) return true;
    const texts = [data.problems[problem].id, data.problems[problem].prompt];
    for (const [, found] of given) texts.push(found.text, found.message);
    return texts.some((text) => text.toLowerCase().includes(wanted));
  }

  function drawList() {
    const list = byId("problem-list");
    const models = shownModels();
    matching = data.problems.map((_, index) => index).filter(matches);
    list.replaceChildren(...matching.map((index) => {
      const button = element("button");
      button.dataset.index = index;
      button.append(element("span", "id", data.problems[index].id));
      const dots = element("span", "dots");
      const passed = models.map((model) => Boolean(answer(model, index)?.passed));
      for (const yes of passed) dots.append(element("span", yes ? "yes" : "no", yes ? "●" : "○"));
      dots.setAttribute("role", "img");
      dots.setAttribute("aria-label", `${passed.filter(Boolean).length} of ${passed.length} pass`);
      button.append(dots);
      const item = element("li");
      item.append(button);
      return item;
    }));
    byId("count").textContent = `${matching.length} of ${data.problems.length} problems`;
    if (matching.length && !matching.includes(chosenProblem())) {
      state.problem = data.problems[matching[0]].id;
    }
  }

  function chosenProblem() {
    return data.problems.findIndex(
      ({ id }) => state.problem && (id === state.problem || id.endsWith(`/${state.problem}`)),
    );
  }

  function drawAnswer(model, problem) {
    const box = element("article", "answer");
    const { label, teacher } = data.models[model];
    box.dataset.model = label;
    const header = element("header", "", `${model + 1}  ${label} `);
    if (teacher) header.append(element("span", "tag", "teacher "));
    const found = answer(model, problem);
    const [passes, samples] = data.passes[model][problem];
    if (!found) {
      box.append(header, element("p", "detail", "No completion here."));
      return box;
    }
    const verdict = found.passed ? "● passed" : `○ ${found.outcome}`;
    header.append(element("span", `verdict ${found.passed ? "yes" : "no"}`, verdict));
    const details = [found.message, `${found.tokens} tokens, ended by ${found.finish || "its end"}`];
    if (samples) details.push(`${passes} of ${samples} samples pass`);
    const text = element("pre", "", found.text);
    text.tabIndex = 0;
    text.setAttribute("aria-label", `Completion of ${label}`);
    box.append(header, element("div", "detail", details.filter(Boolean).join(" · ")), text);
    return box;
  }

  function drawProblem() {
    const index = chosenProblem();
    const shown = matching.length > 0 && index >= 0;
    byId("problem").hidden = !shown;
    byId("nothing").hidden = shown;
    if (!shown) return;
    const problem = data.problems[index];
    byId("problem-id").textContent = problem.id;
    byId("problem-mark").hidden = !problem.contaminated;
    for (const part of ["prompt", "solution", "test"]) byId(part).textContent = problem[part];
    byId("answers").replaceChildren(...shownModels().map((model) => drawAnswer(model, index)));
    for (const button of byId("problem-list").querySelectorAll("button")) {
      if (Number(button.dataset.index) === index) {
        button.setAttribute("aria-current", "true");
        const list = byId("problem-list");
        const top = button.offsetTop - list.offsetTop;
        if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 30) {
          list.scrollTop = top - list.clientHeight / 3;
        }
      } else {
        button.removeAttribute("aria-current");
      }
    }
  }

  function drawBrowser() {
    for (const name of controls) {
      byId(name).value = state[name];
      if (byId(name).value !== state[name]) byId(name).value = state[name] = defaults[name];
    }
    drawList();
    drawProblem();
  }

  function step(by) {
    if (!matching.length) return;
    const place = matching.indexOf(chosenProblem()) + by;
    state.problem = data.problems[matching[(place + matching.length) % matching.length]].id;
    drawProblem();
    writeAddress();
  }

  function addOptions(select, options) {
    for (const [value, text] of options) {
      const option = element("option", "", text);
      option.value = value;
      select.append(option);
    }
  }

  function startBrowser() {
    addOptions(byId("model"), data.models.filter((m) => !m.teacher).map((m) => [m.label, m.label]));
    const samples = Array.from({ length: data.samples }, (_, i) => [`${i + 1}`, `sample ${i + 1}`]);
    addOptions(byId("show"), samples);
    const used = new Set();
    for (const cells of [...data.greedy, ...data.sampled].flat(2)) used.add(data.texts[cells[1]]);
    addOptions(byId("outcome"), [...used].sort().map((outcome) => [outcome, outcome]));
    for (const name of controls) {
      byId(name).addEventListener(name === "q" ? "input" : "change", () => {
        state[name] = byId(name).value;
        drawBrowser();
        writeAddress();
      });
    }
    byId("problem-list").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      state.problem = data.problems[Number(button.dataset.index)].id;
      drawProblem();
      writeAddress();
    });
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.target.closest?.("input, select, pre, .scroll")) return;
      const inList = Boolean(event.target.closest?.("#problem-list"));
      const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const upDown = inList ? { ArrowUp: -1, ArrowDown: 1 }[event.key] : undefined;
      const by = sideways ?? upDown;
      if (by === undefined || !isBrowserInView()) return;
      event.preventDefault();
      step(by);
      if (inList) byId("problem-list").querySelector("[aria-current]")?.focus();
    });
  }

  function isBrowserInView() {
    const { top, bottom } = byId("browser").getBoundingClientRect();
    return top < innerHeight && bottom > 0;
  }

  function apply() {
    applyTheme();
    applyQuality();
    if (data) drawBrowser();
  }
  if (isState()) readAddress();
  const isSent = Boolean(state.problem);
  if (data) startBrowser();
  apply();
  if (isSent) byId("browser")?.scrollIntoView();
  window.addEventListener("hashchange", () => {
    if (!isState()) return;
    readAddress();
    apply();
  });
  page.dataset.ready = "yes";
})();
