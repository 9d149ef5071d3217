// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The qkit authors
// Tables that are sorted, narrowed down and opened. Each row is a tbody, so that what opens below a
// row stays with it.

/** Sorts by a column: ascending first, then the other way round. */
function sortBy(header) {
  const table = header.closest("table");
  const descending = header.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
  header.ariaSort = descending ? "descending" : "ascending";
  const compare = header.dataset.kind === "text" ? compareTexts : compareNumbers;
  const key = (row) => row.rows[0].cells[header.cellIndex];
  table.append(...[...table.tBodies].sort((a, b) => compare(key(a), key(b), descending ? -1 : 1)));
}

function compareTexts(a, b, sign) {
  return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

/** Numerically; what has no number comes last in both directions. */
function compareNumbers(a, b, sign) {
  const [first, second] = [a.dataset.value, b.dataset.value];
  if (first === "" || second === "") return (first === "") - (second === "");
  return first === second ? 0 : sign * (Number(first) - Number(second));
}

/** Shows the rows that fit a form's choices, and how many they are. */
function narrowDown(form) {
  const { tower, kind, name } = Object.fromEntries(new FormData(form));
  const rows = [...document.getElementById(form.dataset.table).tBodies];
  for (const row of rows) {
    const fits = (!tower || row.dataset.tower === tower) && (!kind || row.dataset.kind === kind);
    row.hidden = !fits || !row.dataset.name.toLowerCase().includes(name.trim().toLowerCase());
  }
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = `${shown} of ${rows.length} layers`;
}

/** Opens or closes a row; its charts live only while it is open. */
function toggle(button) {
  const open = button.ariaExpanded !== "true";
  const sheet = document.getElementById(button.getAttribute("aria-controls"));
  button.ariaExpanded = String(open);
  sheet.hidden = !open;
  sheet.querySelectorAll("[data-chart]").forEach(open ? draw : Plotly.purge);
  if (open) sheet.scrollIntoView({ block: "nearest" });
}

for (const header of document.querySelectorAll("th[aria-sort]")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
for (const button of document.querySelectorAll("button[aria-expanded]")) {
  button.addEventListener("click", () => toggle(button));
}
for (const form of document.querySelectorAll(".filters")) {
  form.addEventListener("input", () => narrowDown(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  narrowDown(form);
}
document.querySelectorAll("main > section > [data-chart]").forEach(draw);
for (const query of [dark, narrow]) {
  query.addEventListener("change", () => document.querySelectorAll(".js-plotly-plot").forEach(draw));
}
