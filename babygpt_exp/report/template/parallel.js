// Parallel coordinates: an axis a varied key and one for the score, a line a run.
// In SVG by hand: plotly's own need WebGL and `eval`, which not every browser has and grants.

const BOX = { top: 40, height: 240, bottom: 16, side: 104 };
const brushes = new Map(); // number of an axis: [top, bottom] of what is kept, 0 to 1
const scored = data.runs.flatMap((run, at) => (run.score === null ? [] : [{ run, at }]));

const isNumber = (text) => text !== "" && Number.isFinite(Number(text));

/** An axis of a key: its values evenly, in their order, or to scale if they are many numbers. */
function keyAxis(key, place) {
  const values = [...new Set(scored.map(({ run }) => run.varied[place]))];
  const numeric = values.every(isNumber);
  values.sort((a, b) => (numeric ? a - b : compare(a, b, 1)));
  if (numeric && values.length > 8) {
    return { ...scale(key, values.map(Number)), of: (run) => Number(run.varied[place]) };
  }
  const at = (value) => 1 - values.indexOf(value) / Math.max(1, values.length - 1);
  const ticks = values.map((value) => ({ text: value || "\u2013", at: at(value) }));
  return { label: key, ticks, at, of: (run) => run.varied[place] };
}

/** An axis of numbers, by powers where they span many. */
function scale(label, values, best = "high") {
  const [low, high] = extent(values);
  const same = (value) => value;
  const [bend, straight] = low > 0 && high / low > 50 ? [Math.log, Math.exp] : [same, same];
  const span = bend(high) - bend(low) || 1;
  const at = (value) => {
    const share = (bend(value) - bend(low)) / span;
    return best === "low" ? share : 1 - share;
  };
  const shares = high === low ? [0] : [0, 0.25, 0.5, 0.75, 1];
  const marks = shares.map((share) => straight(bend(low) + share * (bend(high) - bend(low))));
  return { label, ticks: marks.map((value) => ({ text: short(value), at: at(value) })), at };
}

function scoreAxis() {
  const axis = scale("bits/byte", scored.map(({ run }) => run.score), "low");
  return { ...axis, of: (run) => run.score };
}

function shape(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const yOf = (share) => BOX.top + share * BOX.height;

function lineOf(axes, { run, at }, x) {
  const spots = axes.map((axis, place) => [x(place), yOf(axis.at(axis.of(run)))]);
  let path = `M${spots[0]}`;
  for (let i = 1; i < spots.length; i += 1) {
    const middle = (spots[i - 1][0] + spots[i][0]) / 2;
    path += `C${middle},${spots[i - 1][1]} ${middle},${spots[i][1]} ${spots[i]}`;
  }
  const line = shape("path", { d: path, class: "line", "data-run": at, stroke: colourOf(run) },
    shape("title", {}, `${run.name}: ${run.score}`));
  line.addEventListener("click", () => pick(at));
  return line;
}

function axisOf(axis, place, x) {
  const group = shape("g", { transform: `translate(${x(place)},0)`, class: "axis" });
  group.append(shape("text", { y: 16, class: "key" }, clipped(axis.label, 22)));
  group.append(shape("line", { y1: yOf(0), y2: yOf(1) }));
  const side = place ? { x: 8 } : { x: -8, "text-anchor": "end" };
  const step = Math.ceil(axis.ticks.length / 12); // more would not be legible
  axis.ticks.forEach(({ text, at }, i) => {
    if (i % step !== 0) return;
    group.append(shape("text", { ...side, y: yOf(at) + 4 }, clipped(text, place ? 20 : 12)));
  });
  const brush = shape("rect", { class: "brush", x: -7, width: 14, y: 0, height: 0 });
  const area = { x: -16, width: 32, y: yOf(0) - 10, height: BOX.height + 20 };
  const reach = shape("rect", { class: "reach", ...area });
  group.append(brush, reach);
  drag(reach, brush, place);
  return group;
}

/** Dragging along an axis keeps the lines that cross it there; a click keeps all again. */
function drag(reach, brush, place) {
  let start = null;
  const share = (event) => {
    const box = reach.getBoundingClientRect();
    const inside = (event.clientY - box.top - 10) / BOX.height;
    return Math.min(1.02, Math.max(-0.02, inside));
  };
  const show = () => {
    const [top, bottom] = brushes.get(place) ?? [0, 0];
    brush.setAttribute("y", yOf(top));
    brush.setAttribute("height", (bottom - top) * BOX.height);
    markLines();
  };
  reach.addEventListener("pointerdown", (event) => {
    start = share(event);
    reach.setPointerCapture(event.pointerId);
  });
  reach.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const ends = [start, share(event)].sort((a, b) => a - b);
    if (ends[1] - ends[0] > 0.01) brushes.set(place, ends);
    else brushes.delete(place);
    show();
  });
  reach.addEventListener("pointerup", (event) => {
    if (Math.abs(share(event) - start) <= 0.01) brushes.delete(place);
    start = null;
    show();
  });
  show();
}

let axes = [];

/** Dims the lines that a brush leaves out, and brings out the picked one. */
function markLines() {
  for (const line of document.querySelectorAll("#parallel .line")) {
    const at = Number(line.dataset.run);
    const run = data.runs[at];
    const kept = [...brushes].every(([place, [top, bottom]]) => {
      const share = axes[place]?.at(axes[place].of(run));
      return share >= top && share <= bottom;
    });
    line.classList.toggle("off", !kept || (state.picked !== null && state.picked !== at));
    line.classList.toggle("picked", state.picked === at);
  }
}

function drawParallel() {
  const place = byId("parallel");
  const least = 130 * (axes.length - 1) + BOX.side * 2;
  const width = Math.max(least, place.parentElement.clientWidth);
  const x = (i) => BOX.side + (i * (width - 2 * BOX.side)) / (axes.length - 1);
  const height = BOX.top + BOX.height + BOX.bottom;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  place.replaceChildren(svg);
  svg.append(...[...scored].reverse().map((one) => lineOf(axes, one, x)));
  svg.append(...axes.map((axis, i) => axisOf(axis, i, x)));
  markLines();
}

function startParallel() {
  if (!byId("parallel")) return;
  axes = [...data.keys.map(keyAxis).filter(({ ticks }) => ticks.length > 1), scoreAxis()];
  followers.push(markLines);
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === width) return;
    width = entry.contentRect.width;
    drawParallel();
  }).observe(byId("parallel").parentElement);
  drawParallel();
}
