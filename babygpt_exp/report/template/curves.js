// The curves: a trace a run and metric, or a mean and a band a group.

const LOSSES = ["train/loss", "val/loss"];
const COLUMN_COLOURS = { "train/loss": "#8fb4d8", "val/loss": "#d9622b" };
const LINE_WIDTH = data.runs.length > 30 ? 1.3 : 1.9;
const TIME = timeUnit();

/** What can be chosen to be shown; one run has both its losses in one chart. */
const metrics = data.metrics.map(({ key, label }) => ({ label, columns: [key] }));
if (single && LOSSES.every((key) => data.runs[0].metrics[key])) {
  metrics.unshift({ label: "train and validation loss", columns: LOSSES });
}

function timeUnit() {
  let most = 0;
  for (const run of data.runs) for (const time of run.seconds) most = Math.max(most, time ?? 0);
  if (most > 3 * 3600) return { name: "hours", seconds: 3600 };
  return most > 300 ? { name: "minutes", seconds: 60 } : { name: "seconds", seconds: 1 };
}

const labelOf = (column) => data.metrics.find(({ key }) => key === column).label;

/** x and y of a run's curve, or null. */
function points(run, column) {
  const metric = run.metrics[column];
  if (!metric) return null;
  const all = run[state.axis];
  const x = metric.at ? metric.at.map((place) => all[place]) : all;
  const unit = state.axis === "seconds" ? TIME.seconds : 1;
  return { x: unit === 1 ? x : x.map((time) => (time === null ? null : time / unit)), y: metric.y };
}

/** plotly reads a little HTML in text: names are shown as they are, in lines not too long. */
function plain(text) {
  const lines = text.match(/.{1,70}/gsu) ?? [];
  const escape = (line) => line.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return lines.map(escape).join("<br>").replaceAll("%{", "% {");
}

function hover(name, column) {
  const x = state.axis === "tokens" ? "%{x:.4s} tokens" : `%{x:.4~f} ${TIME.name}`;
  return `<b>${plain(name)}</b><br>%{y:.5~g} ${labelOf(column)}<br>${x}<extra></extra>`;
}

function runTrace(run, number, column, mode = "lines") {
  const curve = points(run, column);
  if (!curve) return null;
  const few = curve.y.length === 1;
  return {
    ...curve,
    type: "scatter",
    mode: few ? "markers" : mode,
    meta: number,
    name: plain(run.name),
    line: {
      color: single ? COLUMN_COLOURS[column] ?? colourOf(run) : colourOf(run),
      width: LINE_WIDTH,
      dash: run.status === "completed" || single ? "solid" : "dot",
    },
    marker: { color: colourOf(run), size: 7 },
    hovertemplate: hover(single ? labelOf(column) : run.name, column),
    connectgaps: true,
  };
}

function runTraces(columns) {
  const shown = [];
  data.runs.forEach((run, number) => {
    for (const column of columns) {
      if (state.hidden.has(single ? column : number)) continue;
      const trace = runTrace(run, number, column);
      if (trace) shown.push(trace);
    }
  });
  return single ? shown : shown.reverse(); // the best is drawn last, above the others
}

/** y of a curve at x, by lines between its points; x must lie within. */
function valueAt({ x, y }, at) {
  let high = 1;
  while (high < x.length - 1 && x[high] < at) high += 1;
  const share = (at - x[high - 1]) / (x[high] - x[high - 1] || 1);
  return y[high - 1] + share * (y[high] - y[high - 1]);
}

/** Mean, lowest and highest of curves wherever all have a value. */
function meanOf(curves) {
  const start = Math.max(...curves.map(({ x }) => x[0]));
  const end = Math.min(...curves.map(({ x }) => x.at(-1)));
  const x = curves[0].x.filter((at) => at >= start && at <= end);
  if (x.at(-1) < end) x.push(end);
  const values = x.map((at) => curves.map((curve) => valueAt(curve, at)));
  return {
    x,
    mean: values.map((all) => all.reduce((sum, value) => sum + value, 0) / all.length),
    low: values.map((all) => Math.min(...all)),
    high: values.map((all) => Math.max(...all)),
  };
}

/** Curves of a group's shown runs: of the completed ones, if any is. */
function groupCurves(place, column) {
  const shown = data.runs.filter((run, number) => run.group === place && !state.hidden.has(number));
  const done = shown.filter((run) => run.status === "completed");
  const curves = (done.length ? done : shown).map((run) => points(run, column));
  return curves.filter((curve) => curve && curve.y.length > 1);
}

function meanTraces([column]) {
  const shown = [];
  data.groups.forEach(({ name, colour }, place) => {
    const curves = groupCurves(place, column);
    if (!curves.length) return;
    const { x, mean, low, high } = meanOf(curves);
    const band = { x, type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    const fill = `${colour}30`;
    if (curves.length > 1) {
      shown.push({ ...band, y: low }, { ...band, y: high, fill: "tonexty", fillcolor: fill });
    }
    const title = `${name}, mean of ${curves.length}`;
    const line = { color: colour, width: 2.4 };
    shown.push({ x, y: mean, type: "scatter", mode: "lines", line, name: plain(title),
      meta: -1, hovertemplate: hover(title, column) });
  });
  return shown;
}

function emphasise(traces) {
  if (state.picked === null || single || state.mean) return traces;
  const front = (trace) => trace.meta === state.picked;
  for (const trace of traces) {
    trace.opacity = front(trace) ? 1 : 0.22;
    if (front(trace)) trace.line.width = 3.6;
  }
  return traces.sort((a, b) => front(a) - front(b));
}

/** The range of y that the second half of the curves needs, and that half of x. */
function closeUp(traces) {
  const most = Math.max(...traces.map(({ x }) => x.at(-1) ?? 0));
  const values = traces.flatMap(({ x, y }) => y.filter((value, at) => x[at] >= most / 2));
  if (!values.length) return {};
  const [low, high] = extent(values).map((value) => (state.log ? Math.log10(value) : value));
  const room = 0.06 * (high - low || 1);
  const side = 0.01 * most;
  return { x: [most / 2 - side, most + side], y: [low - room, high + room] };
}

function extent(values) {
  const wider = ([low, high], value) => [Math.min(low, value), Math.max(high, value)];
  return values.reduce(wider, [Infinity, -Infinity]);
}

function layout(columns, traces) {
  const grid = "rgba(128,128,128,.18)";
  const narrow = innerWidth < 640;
  const font = { size: 12.5 };
  const axis = { gridcolor: grid, zeroline: false, linecolor: grid, automargin: true };
  const range = state.close ? closeUp(traces) : {};
  const x = state.axis === "tokens"
    ? { title: { text: "tokens trained on", font, standoff: 10 }, tickformat: "~s" }
    : { title: { text: `${TIME.name} of training`, font, standoff: 10 } };
  const y = state.log ? { type: "log", dtick: "D1" } : { type: "linear" };
  const label = columns.length > 1 ? "loss, nats a token" : labelOf(columns[0]);
  return {
    margin: { l: narrow ? 44 : 60, r: narrow ? 8 : 16, t: 16, b: 48 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: PLAIN },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: {
      bgcolor: "#23272a",
      bordercolor: "#23272a",
      font: { color: "#f2f2ef" },
      align: "left",
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: PLAIN, activecolor: "#2f7fd1" },
    xaxis: { ...axis, ...x, range: range.x },
    yaxis: { ...axis, ...y, title: { text: narrow ? "" : label, font }, range: range.y },
  };
}

const CONFIG = {
  displaylogo: false,
  responsive: true,
  plotlyServerURL: "", // nothing is sent anywhere
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

/** Draws what `state` asks for; resolves once it is on the page. */
async function draw() {
  const { columns } = metrics[state.metric];
  const traces = emphasise(state.mean ? meanTraces(columns) : runTraces(columns));
  byId("mean-note").hidden = !state.mean;
  await Plotly.react("chart", traces, layout(columns, traces), CONFIG);
  const curves = traces.filter(({ x, meta }) => x.length && meta !== undefined); // no bands
  document.body.dataset.curves = curves.length;
}

/** One button for each group, or for each column where there is one run. */
function legendEntries() {
  if (single) {
    const { columns } = metrics[state.metric];
    return columns.length < 2 ? [] : columns.map((column) => ({
      label: labelOf(column), colour: COLUMN_COLOURS[column], members: [column] }));
  }
  return data.groups.map(({ name, colour }, place) => ({
    label: name,
    colour,
    members: data.runs.flatMap((run, number) => (run.group === place ? [number] : [])),
  }));
}

function drawLegend() {
  byId("legend").replaceChildren(...legendEntries().map(({ label, colour, members }) => {
    const shown = members.filter((member) => !state.hidden.has(member)).length;
    const pressed = shown === members.length ? "true" : shown ? "mixed" : "false";
    const toggle = () => showRuns(members, shown === 0);
    const button = { type: "button", "aria-pressed": pressed, title: label, onclick: toggle };
    const dot = make("i", { style: `background:${colour}` });
    return make("button", button, dot, make("span", {}, clipped(label, 60)));
  }));
}

/** Shows or hides runs everywhere, and keeps the focus where it was. */
function showRuns(members, visible) {
  const focused = [...byId("legend").children].indexOf(document.activeElement);
  for (const member of members) state.hidden[visible ? "delete" : "add"](member);
  drawLegend();
  byId("legend").children[focused]?.focus();
  markTable();
  return draw();
}

function startCurves() {
  if (!metrics.length) {
    for (const id of ["chart", "legend"]) byId(id).hidden = true;
    document.querySelector(".curves .controls").hidden = true;
    byId("empty").hidden = false;
    document.body.dataset.curves = 0;
    return Promise.resolve();
  }
  state.metric = 0;
  byId("metric").append(...metrics.map(({ label }, at) => make("option", { value: at }, label)));
  byId("metric").value = "0"; // a browser may remember another
  byId("metric").addEventListener("change", ({ target }) => {
    state.metric = Number(target.value);
    drawLegend();
    draw();
  });
  for (const radio of document.querySelectorAll("#axis input")) {
    radio.checked = radio.value === state.axis;
    radio.addEventListener("change", () => {
      state.axis = radio.value;
      draw();
    });
  }
  for (const name of ["log", "close", "mean"]) {
    byId(name).checked = false;
    byId(name).addEventListener("change", ({ target }) => {
      state[name] = target.checked;
      draw();
    });
  }
  const groups = new Set(data.runs.map(({ group }) => group));
  byId("mean-label").hidden = single || groups.size === data.runs.length;
  drawLegend();
  followers.push(draw);
  return draw().then(() => {
    byId("chart").on("plotly_click", ({ points: [point] }) => {
      if (!single && point.data.meta >= 0) pick(point.data.meta);
    });
  });
}
