// The table of runs: sorted by a click on a column, and the place to pick and to hide runs.

const rows = [...document.querySelectorAll("#runs tbody tr")];
const numberOf = (row) => Number(row.dataset.run);

/** Numbers before words, what is missing last in either direction. */
function compare(left, right, direction) {
  if (left === "" || right === "") return (left === "") - (right === "");
  const difference = Number(left) - Number(right);
  if (!Number.isNaN(difference)) return direction * difference;
  return direction * left.localeCompare(right, undefined, { numeric: true });
}

function sortBy(header) {
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const value = (row) => row.children[header.cellIndex].dataset.value;
  rows.sort((a, b) => compare(value(a), value(b), direction) || numberOf(a) - numberOf(b));
  header.closest("table").tBodies[0].append(...rows);
}

/** What is hidden and picked, as the rows show it. */
function markTable() {
  if (!rows.length) return;
  for (const row of rows) {
    row.classList.toggle("picked", numberOf(row) === state.picked);
    row.querySelector("input").checked = !state.hidden.has(numberOf(row));
  }
  const all = byId("all");
  all.checked = state.hidden.size === 0;
  all.indeterminate = state.hidden.size > 0 && state.hidden.size < rows.length;
}

function startTable() {
  if (!rows.length) return;
  for (const button of document.querySelectorAll("#runs th button")) {
    button.addEventListener("click", () => sortBy(button.parentElement));
  }
  for (const row of rows) {
    row.addEventListener("click", ({ target }) => {
      if (target.matches("input")) showRuns([numberOf(row)], target.checked);
      else pick(numberOf(row));
    });
    row.addEventListener("keydown", (event) => {
      if (event.target !== row || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      pick(numberOf(row));
    });
  }
  const all = byId("all");
  all.addEventListener("change", () => showRuns(rows.map(numberOf), all.checked));
  followers.push(markTable);
  markTable();
}
