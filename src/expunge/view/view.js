// The list of runs, refreshed while the page is seen; prompts to their models; the report, when it changes.

const POLL = 2000; // milliseconds
const byId = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
let shown = ""; // the state on the page, as text
let asking = false;
let report = ""; // the version of the report on the page

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const number = (value) => (typeof value === "number" ? value.toFixed(3).replace(/^0\./, ".") : "–");

function progress(run) {
  const cell = element("td");
  if (run.state === "finished") {
    cell.textContent = [`finished, ${run.step} steps`, run.outcome && `${run.outcome}, by probabilities alone`].filter(Boolean).join(": ");
    return cell;
  }
  const steps = run.steps ? `step ${run.step} of ${run.steps}` : "has not begun its steps";
  if (run.steps) cell.append(element("progress", undefined, { value: run.step, max: run.steps, "aria-label": run.name }), " ");
  cell.append(`${run.state}, ${steps}`);
  return cell;
}

function curve(losses) {
  const cell = element("td");
  const lines = Object.entries(losses).filter(([, values]) => values.length > 1);
  if (!lines.length) return cell;
  const all = lines.flatMap(([, values]) => values).filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const ends = lines.map(([name, values]) => `${name.replace("_", " ")} ${values[0].toPrecision(3)} to ${values.at(-1).toPrecision(3)}`);
  svg.setAttribute("aria-label", ends.join(", "));
  for (const [name, values] of lines) {
    const line = document.createElementNS(space, "polyline");
    const at = (value, place) => `${(100 * place) / (values.length - 1)},${5 + (90 * (high - value)) / (high - low || 1)}`;
    line.setAttribute("points", values.map(at).join(" "));
    line.setAttribute("class", name.replace("_loss", ""));
    svg.append(line);
  }
  cell.append(svg);
  return cell;
}

function row(run) {
  const made = element("tr");
  const measured = run.measured;
  const attacked = run.leaking ? `${run.leaking[0]} of ${run.leaking[1]} facts leak` : "not attacked";
  const faults = run.faults.join(" ");
  const name = element("th", run.name, { scope: "row" });
  if (faults) name.append(element("div", faults, { class: "fault" }));
  made.append(
    name,
    element("td", run.method || run.stage),
    progress(run),
    curve(run.losses),
    element("td", number(measured.forget_extraction_strength), { class: "number" }),
    element("td", number(measured.retain_extraction_strength), { class: "number" }),
    element("td", attacked),
    element("td", run.verdict || "none"),
  );
  return made;
}

function choose(runs) {
  const select = byId("run");
  const names = runs.filter((run) => run.state === "finished").map((run) => run.name);
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const before = select.value;
  select.replaceChildren(...names.map((name) => element("option", name, { value: name })));
  if (names.includes(before)) select.value = before;
}

function show(state) {
  byId("runs").replaceChildren(...state.runs.map(row));
  choose(state.runs);
  const running = state.runs.filter((run) => run.state === "running").length;
  byId("status").textContent = state.runs.length
    ? `${state.runs.length} runs, ${running} running.`
    : "No run yet. Runs appear here as soon as they begin.";
  if (state.report !== report) {
    report = state.report;
    byId("report").hidden = !report;
    if (report) document.querySelector("iframe").src = "/report";
  }
}

async function refresh() {
  if (asking) return; // one look at a time, however long it takes
  asking = true;
  try {
    const text = await (await fetch("/state.json")).text();
    if (text !== shown) {
      shown = text;
      show(JSON.parse(text));
    }
  } catch {
    byId("status").textContent = "expunge view does not answer. If it has ended, start it again.";
    shown = "";
  }
  asking = false;
}

function answer(said) {
  const made = element("article");
  const p = said.probability === null ? "" : `probability of the known answer ${said.probability.toPrecision(2)}`;
  made.append(element("h3", said.model), element("p", p, { class: "probability" }), element("p", said.text + (said.ended ? "" : " …")));
  return made;
}

function told(state) {
  if (state.error || state.status) {
    byId("known").textContent = state.error || state.status;
    return;
  }
  byId("known").textContent = state.known ? `Known answer (${state.split}): ${state.known}` : state.note;
  byId("answers").replaceChildren(...state.answers.map(answer));
}

async function ask(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  byId("answers").replaceChildren();
  byId("known").textContent = "Asking.";
  try {
    const body = JSON.stringify({ run: form.run.value, prompt: form.prompt.value });
    const response = await fetch("/ask", { method: "POST", headers: { "X-Expunge-Token": token }, body });
    if (!response.ok) throw new Error(await response.text());
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      lines.forEach((line) => told(JSON.parse(line)));
    }
  } catch (error) {
    byId("known").textContent = String(error.message || error);
  }
  button.disabled = false;
}

byId("ask").addEventListener("submit", ask);
setInterval(() => document.hidden || refresh(), POLL);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();
