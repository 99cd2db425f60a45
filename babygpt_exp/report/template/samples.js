// Samples side by side: a column a run at the same tokens, or of one run a column a position.

const MOST_COLUMNS = 6;

/** Columns to choose from, best first or earliest first, and those shown at the start. */
const choices = single
  ? data.positions.map((at) => ({ run: data.runs[0], tokens: at, label: `${short(at)} tokens` }))
  : data.runs.filter((run) => run.samples.length).map((run) => ({ run, label: run.name }));
const chosen = new Set(single ? spread(choices.length, 3) : firstOfGroups(3));

/** Numbers below `count`, evenly from the first to the last. */
function spread(count, most) {
  const length = Math.min(most, count);
  const place = (i) => Math.round((i * (count - 1)) / Math.max(1, length - 1));
  return Array.from({ length }, (_, i) => place(i));
}

/** The best run of each of the best groups, and then the best of the rest. */
function firstOfGroups(most) {
  const seen = new Set();
  const places = choices.map((_, at) => at);
  const first = places.filter((at) => {
    const { group } = choices[at].run;
    return seen.has(group) ? false : seen.add(group);
  });
  return [...new Set([...first, ...places])].slice(0, most).sort((a, b) => a - b);
}

/** The run's samples from the round nearest to `tokens`. */
function roundAt(run, tokens) {
  const distance = (at) => Math.abs(at - tokens);
  const rounds = run.samples.map((sample) => sample.tokens);
  const nearest = rounds.reduce((best, at) => (distance(at) < distance(best) ? at : best));
  return { tokens: nearest, samples: run.samples.filter((sample) => sample.tokens === nearest) };
}

/** Samples by row: prompts of the config first, then those from validation text by their place. */
function keyed(samples) {
  const count = {};
  return new Map(samples.map((sample) => {
    const name = sample.kind === "manual" ? `manual ${sample.prompt}` : "auto";
    count[name] = (count[name] ?? 0) + 1;
    return [`${name} ${count[name]}`, sample];
  }));
}

function cellOf(sample) {
  if (!sample) return make("div", { class: "sample none" }, "\u2013");
  const from = sample.kind === "manual" ? "" : "from validation text";
  return make("div", { class: "sample" },
    ...(from ? [make("small", {}, from)] : []),
    make("p", {}, make("span", { class: "prompt" }, sample.prompt), make("b", {}, sample.text)));
}

const dotOf = (run) =>
  (single ? [] : [make("i", { class: "dot", style: `background:${colourOf(run)}` })]);

function headOf({ run, label }, tokens, asked) {
  const head = make("div", { class: "head", title: label }, ...dotOf(run),
    make("span", {}, clipped(label, 70)));
  if (tokens !== asked) head.append(make("small", {}, `after ${short(tokens)} tokens`));
  return head;
}

function drawSamples() {
  const asked = data.positions[Number(byId("position").value)];
  byId("position-text").textContent = `${short(asked)} tokens`;
  byId("position").setAttribute("aria-valuetext", `${short(asked)} tokens`);
  const shown = choices.filter((_, at) => chosen.has(at));
  const rounds = shown.map((column) => roundAt(column.run, column.tokens ?? asked));
  const cells = rounds.map(({ samples }) => keyed(samples));
  const keys = [...new Set(cells.flatMap((cell) => [...cell.keys()]))];
  const rank = (key) => (key.startsWith("manual") ? 0 : 1);
  keys.sort((a, b) => rank(a) - rank(b)); // stable: else as they were drawn
  const grid = byId("texts");
  grid.style.setProperty("--columns", Math.max(1, shown.length));
  grid.replaceChildren(
    ...shown.map((column, at) => headOf(column, rounds[at].tokens, column.tokens ?? asked)),
    ...keys.flatMap((key) => cells.map((cell) => cellOf(cell.get(key)))));
  const word = single ? "positions" : "runs";
  byId("picked-text").textContent = `choose ${word} (${shown.length} of ${choices.length} shown)`;
}

/** No more columns than can be read beside each other. */
function limit() {
  for (const box of document.querySelectorAll("#columns input")) {
    box.disabled = !box.checked && chosen.size >= MOST_COLUMNS;
  }
}

function startSamples() {
  if (!byId("texts")) return;
  const position = byId("position");
  position.max = data.positions.length - 1;
  position.value = position.max;
  position.addEventListener("input", drawSamples);
  byId("position-label").hidden = single || data.positions.length < 2;
  byId("columns").append(...choices.map(({ run, label }, at) => {
    const toggle = ({ target }) => {
      chosen[target.checked ? "add" : "delete"](at);
      limit();
      drawSamples();
    };
    const box = make("input", { type: "checkbox", onchange: toggle, autocomplete: "off" });
    box.checked = chosen.has(at);
    return make("label", { title: label }, box, ...dotOf(run),
      make("span", {}, clipped(label, 60)));
  }));
  limit();
  drawSamples();
}
