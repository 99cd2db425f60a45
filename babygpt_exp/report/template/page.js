// What all parts of the page share: the data, what is shown, and numbers in words.

const data = JSON.parse(document.getElementById("data").textContent);
const single = data.runs.length === 1;
const byId = (id) => document.getElementById(id);
const PLAIN = "#8b8d94";

const state = {
  metric: null, // a place in `metrics`
  axis: "tokens",
  log: false,
  close: false, // the second half alone
  mean: false,
  hidden: new Set(), // numbers of runs, or names of columns where there is one run
  picked: null, // number of the run that is brought out
};

const colourOf = (run) => (run.group === null ? PLAIN : data.groups[run.group].colour);

/** An element with attributes and children; a string among these is text, never HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") element.style.cssText = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** 16400000 as 16.4M. */
function short(number) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= size) return `${+(number / size).toPrecision(4)}${letter}`;
  }
  return String(+number.toPrecision(4));
}

/** A long text without its middle: values often differ at their end. */
function clipped(text, most) {
  if (text.length <= most) return text;
  const end = Math.ceil(0.6 * (most - 1));
  return `${text.slice(0, most - 1 - end)}\u2026${text.slice(-end)}`;
}

const followers = []; // called when another run is picked

/** Brings a run out everywhere, or none if it was already. */
function pick(run) {
  state.picked = state.picked === run ? null : run;
  followers.forEach((follow) => follow());
}
