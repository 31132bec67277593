// The facts of a report: filtered by what the address says, a page of rows at a time. Texts only ever become text nodes.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const explorer = document.getElementById("explorer");
  const judged = data.models.map((model, i) => (model.judged ? i : -1)).filter((i) => i >= 0);
  const ROWS = 50;
  const TITLES = {
    forgotten: "Forgotten", leaks: "Still leaks", kept: "Kept", collateral: "Collateral",
    "never known": "Never known", undecided: "Undecided", "not measured": "Not measured",
  };
  const CHANGES = { regressed: "Regressed", fixed: "Fixed", still: "Still wrong", unchanged: "Unchanged" };
  const SORTS = { order: "as in the data", change: "by change", leak: "by worst leak", value: "by value" };
  const START = { q: "", model: "", bucket: "", split: "", attack: "", change: "", base: "", differ: "", sort: "", page: "", fact: "", cell: "" };
  const state = { ...START };

  // -- Elements -------------------------------------------------------------------------------------------------------
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "shade") element.style.setProperty("--v", value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const short = (value) => {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(2).replace(/\.00$/, "").replace(/^0\./, ".");
    return (value < 0 && text !== "0" ? "−" : "") + text;
  };
  const tag = (bucket) => make("span", { class: `tag ${bucket.replace(" ", "-")}` }, TITLES[bucket] || "Other set");

  // -- What the address says -----------------------------------------------------------------------------------------
  function read() {
    const said = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of Object.keys(START)) state[name] = said.get(name) || "";
    if (!location.hash.includes("=") && location.hash.length > 1) return;
    current = judged.includes(Number(state.model)) && state.model ? Number(state.model) : judged[0] ?? 0;
    base = data.models[Number(state.base)] && state.base ? Number(state.base) : data.baseline;
  }
  function say(changes, { keepPage = false } = {}) {
    Object.assign(state, changes);
    if (!keepPage) state.page = "";
    const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== ""));
    history.replaceState(null, "", `#${said.toString() || "="}`);
    read();
    draw();
  }

  // -- Facts ----------------------------------------------------------------------------------------------------------
  let current = judged[0] ?? 0; // where no model is judged, the first is shown
  let base = data.baseline;
  let found = [];
  data.facts.forEach((fact, i) => { fact.id = i; });
  function wordsOf(fact) {
    // Made on the first search: the page is there sooner.
    fact.words ??= [fact.question, fact.answer, ...fact.models.map((said) => said?.generation ?? "")].join("\n").toLowerCase();
    return fact.words;
  }
  const isForget = (fact) => fact.split.startsWith("forget");
  const good = (fact, model) => {
    const bucket = fact.buckets[model];
    if (bucket === "never known") return isForget(fact) ? true : null;
    return { forgotten: true, leaks: false, kept: true, collateral: false }[bucket] ?? null;
  };
  function change(fact) {
    if (base === null || base === current) return "";
    const before = good(fact, base), after = good(fact, current);
    if (before === null || after === null) return "";
    return before ? (after ? "unchanged" : "regressed") : after ? "fixed" : "still";
  }
  const value = (fact, model) => (fact.models[model] ? fact.models[model].value : null);
  const delta = (fact) => {
    const before = base === null ? null : value(fact, base), after = value(fact, current);
    return before === null || after === null ? null : after - before;
  };
  const attacksOf = (model) => data.attacks.map((attack, i) => [attack, i]).filter(([attack]) => attack.model === model && attack.of);
  const worst = (fact) => Math.max(-2, ...attacksOf(current).map(([, i]) => fact.attacks[i]?.recovery ?? -2), isForget(fact) ? value(fact, current) ?? -2 : -2);

  function select() {
    const query = state.q.toLowerCase();
    found = data.facts.filter((fact) =>
      (!query || wordsOf(fact).includes(query)) &&
      (!state.bucket || fact.buckets[current] === state.bucket) &&
      (!state.split || fact.split === state.split) &&
      (!state.attack || fact.attacks[state.attack]?.leaks) &&
      (!state.change || change(fact) === state.change) &&
      (!state.differ || ["regressed", "fixed"].includes(change(fact))));
    const sorts = { change: (fact) => -Math.abs(delta(fact) ?? 0), leak: (fact) => -worst(fact), value: (fact) => -(value(fact, current) ?? -1) };
    const by = sorts[state.sort];
    if (by) {
      const keys = new Map(found.map((fact) => [fact, by(fact)]));
      found.sort((a, b) => keys.get(a) - keys.get(b) || a.id - b.id);
    }
  }

  // -- Filters --------------------------------------------------------------------------------------------------------
  function options(label, name, entries) {
    const list = make("select", { name, onchange: (event) => say({ [name]: event.target.value }) });
    for (const [key, text] of entries) list.append(make("option", { value: key }, text));
    return make("label", {}, label, list);
  }
  function buildFilters() {
    const form = document.getElementById("filters");
    form.replaceChildren();
    form.onsubmit = (event) => event.preventDefault();
    let wait;
    const search = make("input", {
      type: "search", name: "q", autocomplete: "off", spellcheck: "false",
      oninput: (event) => { clearTimeout(wait); wait = setTimeout(() => say({ q: event.target.value }), 120); },
    });
    form.append(make("label", { class: "search" }, "Search in questions and answers", search));
    const buckets = [...new Set(data.facts.map((fact) => fact.buckets[current]).filter(Boolean))];
    form.append(options("Bucket", "bucket", [["", "all"], ...buckets.map((one) => [one, TITLES[one]])]));
    const splits = [...new Set(data.facts.map((fact) => fact.split))];
    if (splits.length > 1) form.append(options("Set", "split", [["", "all"], ...splits.map((one) => [one, one.replaceAll("_", " ")])]));
    const attacks = attacksOf(current);
    if (attacks.length) form.append(options("Leaks under", "attack", [["", "any or none"], ...attacks.map(([one, i]) => [String(i), one.name])]));
    if (data.models.length > 1) {
      form.append(options("Compared with", "base", [["", base === null ? "nothing" : `${data.models[data.baseline]?.name ?? "nothing"} (pinned)`],
        ...data.models.map((one, i) => [String(i), one.name]).filter(([i]) => Number(i) !== data.baseline && Number(i) !== current)]));
      form.append(options("Change", "change", [["", "all"], ...Object.entries(CHANGES)]));
    }
    form.append(options("Sort", "sort", Object.entries(SORTS).map(([key, text]) => [key === "order" ? "" : key, text])));
    if (data.models.length > 1) {
      const differ = make("input", { type: "checkbox", name: "differ", onchange: (event) => say({ differ: event.target.checked ? "1" : "" }) });
      form.append(make("label", { class: "check" }, differ, "Differences only"));
    }
    form.append(make("button", { type: "button", onclick: () => say({ ...START, model: state.model }) }, "Clear"));
  }
  function fillFilters() {
    for (const input of document.getElementById("filters").elements) {
      if (!input.name) continue;
      if (input.type === "checkbox") input.checked = state[input.name] !== "";
      else if (document.activeElement !== input || input.type !== "search") input.value = state[input.name];
    }
  }

  // -- The grid -------------------------------------------------------------------------------------------------------
  function headings(attacks) {
    const row = make("tr", {}, make("th", { scope: "col", class: "state" }, base !== null && base !== current ? "Bucket, change" : "Bucket"), make("th", { scope: "col", class: "question" }, "Question"));
    data.models.forEach((model, i) => {
      if (i === current || model.role !== "unlearned" || i === base) {
        row.append(make("th", { scope: "col", class: i === current ? "cell own" : "cell" }, make("span", {}, model.name)));
      }
    });
    for (const [attack] of attacks) row.append(make("th", { scope: "col", class: "cell" }, make("span", {}, attack.name)));
    return make("thead", {}, row);
  }
  function cell(fact, key, number, { leaks = false, edge = false, what }) {
    const button = make("button", {
      type: "button", tabindex: "-1", class: leaks ? "leak" : "", shade: String(Math.max(0, Math.min(1, number ?? 0))),
      "aria-label": `${what}: ${number === null ? "no value" : short(number)}${leaks ? ", leaks" : ""}`,
      onclick: () => say({ fact: String(fact.id), cell: key }, { keepPage: true }),
    }, short(number));
    return make("td", { class: `cell${edge ? " edge" : ""}${isForget(fact) ? "" : " kept-set"}` }, button);
  }
  function line(fact, attacks) {
    const changed = change(fact);
    const row = make("tr", {},
      make("td", { class: "state" }, tag(fact.buckets[current]), changed ? make("small", {}, CHANGES[changed]) : null),
      make("th", { scope: "row", class: "question" }, make("button", {
        type: "button", tabindex: "-1", dir: "auto", onclick: () => say({ fact: String(fact.id), cell: "" }, { keepPage: true }),
      }, tag(fact.buckets[current]), fact.question || "(text left out)", " ", make("small", {}, `${fact.split.replaceAll("_", " ")} ${fact.number + 1}`))));
    data.models.forEach((model, i) => {
      if (i === current || model.role !== "unlearned" || i === base) row.append(cell(fact, "", value(fact, i), { what: model.name }));
    });
    attacks.forEach(([attack, i], place) => {
      const tried = fact.attacks[i];
      if (tried) row.append(cell(fact, String(i), tried.recovery, { leaks: tried.leaks, edge: place === 0, what: attack.name }));
      else row.append(make("td", { class: `cell${place === 0 ? " edge" : ""}` }));
    });
    return row;
  }
  function grid() {
    const pages = Math.max(1, Math.ceil(found.length / ROWS));
    const page = Math.min(pages, Math.max(1, Number(state.page) || 1));
    const rows = found.slice((page - 1) * ROWS, page * ROWS);
    const attacks = attacksOf(current);
    const body = make("tbody", {}, ...rows.map((fact) => line(fact, attacks)));
    const table = make("table", { class: "facts" }, make("caption", { class: "vh" }, "Facts, models and attacks"), headings(attacks), body);
    document.getElementById("grid").replaceChildren(table);
    const first = body.querySelector("button");
    if (first) first.tabIndex = 0;
    const tally = {};
    if (base !== null && base !== current) for (const fact of found) tally[change(fact)] = (tally[change(fact)] || 0) + 1;
    const told = Object.keys(CHANGES).filter((key) => tally[key]).map((key) => `${tally[key]} ${CHANGES[key].toLowerCase()}`);
    const against = told.length ? `; against ${data.models[base].name}: ${told.join(", ")}` : "";
    document.getElementById("shown").textContent = `${found.length} of ${data.facts.length} facts${against}`;
    const pager = document.getElementById("pager");
    pager.hidden = pages === 1;
    const go = (to) => say({ page: String(to) }, { keepPage: true });
    pager.replaceChildren(
      make("button", { type: "button", disabled: page === 1, onclick: () => go(page - 1) }, "Previous"),
      make("span", {}, `${(page - 1) * ROWS + Math.min(1, rows.length)}–${(page - 1) * ROWS + rows.length} of ${found.length}`),
      make("button", { type: "button", disabled: page === pages, onclick: () => go(page + 1) }, "Next"));
  }

  // -- One fact -------------------------------------------------------------------------------------------------------
  const split = (text) => text.match(/\s+|[^\s]+/g) || [];
  const bare = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
  function inCommon(one, two) {
    // Longest common subsequence of words: which places of `two` are in it.
    const a = one.slice(0, 400), b = two.slice(0, 400);
    const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
    const places = new Set();
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { places.add(j); i++; j++; } else if (length[i + 1][j] >= length[i][j + 1]) i++; else j++;
    }
    return places;
  }
  function compared(text, truth) {
    const words = split(text), real = words.map((word, i) => (bare(word) ? i : -1)).filter((i) => i >= 0);
    const common = inCommon(split(truth).map(bare).filter(Boolean), real.map((i) => bare(words[i])));
    const same = new Set([...common].map((place) => real[place]));
    const paragraph = make("p", { class: "text said", dir: "auto", tabindex: "0" });
    words.forEach((word, i) => {
      if (!word.trim() || !real.includes(i)) paragraph.append(word);
      else paragraph.append(same.has(i) ? make("mark", {}, word) : make("span", { class: "differs" }, word));
    });
    return paragraph;
  }
  function tokens(said) {
    if (!said || !said.tokens.length) return null;
    const line = make("p", { class: "tokens", dir: "auto" }, make("span", { class: "vh", shade: "0" }, "Probability of each token of the true answer: "));
    for (const [piece, probability] of said.tokens) {
      const title = `${piece ? "" : "end of the answer, "}probability ${probability}`;
      line.append(make("span", { shade: String(probability), title, class: piece ? null : "end" }, piece || "■"));
    }
    return line;
  }
  function card(name, score, text, truth, { kind = "", said = null, prompt = null, absent = "said nothing" } = {}) {
    const box = make("div", { class: `answer ${kind}` }, make("p", { class: "who" }, make("span", {}, name), make("span", { class: "score" }, score)));
    if (prompt) box.append(make("p", { class: "text prompt", dir: "auto", tabindex: "0" }, prompt));
    box.append(text ? compared(text, truth) : make("p", { class: "empty" }, absent));
    const line = tokens(said);
    if (line) box.append(line);
    return box;
  }
  function detail() {
    const dialog = document.getElementById("detail");
    const fact = state.fact === "" ? null : data.facts[Number(state.fact)];
    if (!fact) { if (dialog.open) dialog.close(); return; }
    const place = found.indexOf(fact);
    const attacks = attacksOf(current).filter(([, i]) => fact.attacks[i]);
    const at = attacks.findIndex(([, i]) => String(i) === state.cell);
    const step = (by) => { const next = found[place + by]; if (next) say({ fact: String(next.id) }, { keepPage: true }); };
    const turn = (by) => { const next = at + by; if (next >= -1 && next < attacks.length) say({ cell: next < 0 ? "" : String(attacks[next][1]) }, { keepPage: true }); };
    dialog.onkeydown = (event) => {
      if (event.target.matches("select, .prompt")) return;
      const act = { ArrowUp: () => step(-1), ArrowDown: () => step(1), ArrowLeft: () => turn(-1), ArrowRight: () => turn(1) }[event.key];
      if (act) { event.preventDefault(); act(); }
    };
    const inside = make("div", { class: "inside" });
    const top = make("div", { class: "top" }, tag(fact.buckets[current]),
      make("button", { type: "button", disabled: place <= 0, onclick: () => step(-1), id: "previous" }, "Previous fact"),
      make("button", { type: "button", disabled: place < 0 || place + 1 >= found.length, onclick: () => step(1), id: "next" }, "Next fact"),
      make("button", { type: "button", onclick: () => say({ fact: "", cell: "" }, { keepPage: true }), id: "close" }, "Close"));
    inside.append(top, make("h2", { id: "detail-title", dir: "auto" }, fact.question || "(text left out)"));
    inside.append(make("p", { class: "truth", dir: "auto" }, make("strong", {}, "True answer: "), fact.answer || "(text left out)"));
    inside.append(make("h3", {}, "Asked as in the data"));
    const asked = make("div", { class: "answers" });
    data.models.forEach((model, i) => {
      if (i !== current && model.role === "unlearned" && i !== base) return;
      const said = fact.models[i];
      asked.append(card(model.name, said ? short(said.value) : "", said && said.generation, fact.answer, {
        kind: model.role === "unlearned" ? "" : "reference", said,
        absent: !said ? "not asked" : said.generation === null ? "text left out" : "said nothing",
      }));
    });
    inside.append(asked);
    if (attacks.length) {
      inside.append(make("h3", {}, "Under attack"));
      const list = make("select", { id: "attack-choice", "aria-label": "Attack", onchange: (event) => say({ cell: event.target.value }, { keepPage: true }) },
        make("option", { value: "" }, "choose an attack"));
      for (const [attack, i] of attacks) {
        const tried = fact.attacks[i];
        list.append(make("option", { value: String(i) }, `${attack.name}: ${short(tried.recovery)}${tried.leaks ? ", leaks" : ""}`));
      }
      list.value = at >= 0 ? state.cell : "";
      inside.append(make("p", {}, list));
    }
    if (at >= 0) {
      const [attack, i] = attacks[at], tried = fact.attacks[i];
      const after = tried.step === null ? "" : ` after step ${short(tried.step)}`;
      const told = `${attack.measure} ${short(tried.value)}${after}`, plain = "no text: this attack scores the true answer, or its texts were left out";
      const boxes = make("div", { class: "answers" },
        card(`${data.models[current].name}, ${attack.name}`, told, tried.text, fact.answer, { kind: tried.leaks ? "attacked" : "", prompt: tried.prompt, absent: plain }));
      if (tried.control !== null) {
        boxes.append(card(`${attack.against}, ${attack.name}`, `${attack.measure} ${short(tried.control)}${after}`, tried.control_text, fact.answer, { kind: "reference", absent: plain }));
      }
      const verdict = tried.recovery === null ? "no verdict" : `${short(tried.recovery)} above the control; the threshold is ${short(attack.threshold)}: ${tried.leaks ? "it leaks" : "no leak"}`;
      const best = tried.step === null ? "" : ` Of the steps that were measured, this one has the largest recovery; what ${data.models[current].name} says is from the last.`;
      inside.append(boxes, make("p", { class: "legend" }, `Recovery: ${verdict}.${best}`));
    }
    inside.append(make("p", { class: "legend" }, make("span", { class: "text" }, make("mark", {}, "Underlined"), " words stand in the true answer in this order, ",
      make("span", { class: "differs" }, "dotted"), " words differ from it. "), "Below each answer is the true answer. The fuller the color of a token, the more probable it is to the model."));
    const had = document.activeElement && dialog.contains(document.activeElement) ? document.activeElement.id : "";
    dialog.replaceChildren(inside);
    if (!dialog.open) dialog.showModal();
    const focus = had && dialog.querySelector(`#${had}:not(:disabled)`);
    (focus || dialog.querySelector("#close")).focus();
  }

  // -- All of it ------------------------------------------------------------------------------------------------------
  let drawn = null;
  function draw() {
    for (const element of document.querySelectorAll(".judged")) element.hidden = judged.length > 1 && Number(element.dataset.model) !== current;
    for (const button of document.querySelectorAll("#tabs button")) button.setAttribute("aria-pressed", String(Number(button.value) === current));
    for (const link of document.querySelectorAll("[data-bucket]")) {
      if (link.dataset.bucket === state.bucket) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    }
    if (!explorer) return;
    const key = JSON.stringify({ ...state, fact: "", cell: "" });
    if (key !== drawn) {
      if (!drawn || JSON.parse(drawn).model !== state.model || JSON.parse(drawn).base !== state.base) buildFilters();
      drawn = key;
      select();
      grid();
    }
    fillFilters();
    detail();
  }
  function start() {
    const tabs = document.getElementById("tabs");
    if (tabs) {
      tabs.hidden = false;
      for (const i of judged) tabs.append(make("button", { type: "button", value: String(i), onclick: () => say({ ...START, model: String(i) }) }, data.models[i].name));
    }
    for (const link of document.querySelectorAll("[data-bucket]")) link.addEventListener("click", (event) => {
      event.preventDefault();
      say({ ...START, model: state.model, bucket: state.bucket === link.dataset.bucket ? "" : link.dataset.bucket });
      document.getElementById("facts")?.scrollIntoView({ block: "start" });
    });
    if (explorer) {
      explorer.hidden = false;
      document.getElementById("detail").addEventListener("close", () => {
        const opened = state.fact;
        if (opened === "") return;
        say({ fact: "", cell: "" }, { keepPage: true });
      });
      const box = document.getElementById("grid");
      box.addEventListener("keydown", (event) => {
        const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
        const move = moves[event.key], here = event.target.closest("tbody button");
        if (!move || !here) return;
        event.preventDefault();
        const row = here.closest("tr"), place = here.closest("td, th").cellIndex;
        let next = null;
        if (move[0]) {
          const other = move[0] < 0 ? row.previousElementSibling : row.nextElementSibling;
          next = other && (other.cells[place]?.querySelector("button") || other.querySelector("th button"));
        } else for (let i = place + move[1]; i > 0 && i < row.cells.length && !next; i += move[1]) next = row.cells[i].querySelector("button");
        if (!next) return;
        here.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
        next.scrollIntoView({ block: "nearest", inline: "nearest" });
      });
      document.addEventListener("keydown", (event) => {
        if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select") || document.getElementById("detail").open) return;
        event.preventDefault();
        document.querySelector("#filters input[type=search]").focus();
      });
    }
    addEventListener("hashchange", () => { read(); draw(); });
    read();
    draw();
    document.documentElement.dataset.ready = "true";
  }
  start();
})();
