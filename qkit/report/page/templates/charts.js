// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The qkit authors
// Charts of the whole model, and what all charts have in common. Plotly draws; names are escaped.

const data = JSON.parse(document.getElementById("report").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 44rem)");
const painters = { depth, sensitivity, trials, values, errors };
const config = { displayModeBar: false, responsive: true };
const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "star"];

/** Draws an element's chart, anew where there is one. */
function draw(element) {
  const { traces, layout } = painters[element.dataset.chart](element.dataset);
  return Plotly.react(element, traces, { ...frame(), ...layout }, config);
}

/** The value of a variable of the style sheet. */
function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Plotly reads its texts as markup: here they become plain text. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Layout of every chart, in the colours of the page. */
function frame() {
  const [text, muted, line, raised] = ["text", "muted", "line", "raised"].map(style);
  const axis = {
    automargin: true,
    gridcolor: line,
    linecolor: line,
    tickcolor: line,
    zerolinecolor: line,
    title: { font: { size: 12, color: muted }, standoff: 8 },
  };
  return {
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style("sans"), size: 12, color: text },
    margin: { l: 48, r: 12, t: 32, b: 40 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: text } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    template: { layout: { xaxis: axis, yaxis: axis } },
  };
}

/** Error over depth: one panel a tower, one colour a run; an exact block leaves a gap. */
function depth() {
  const runs = data.runs ?? [{ name: "", blocks: data.blocks }];
  const towers = [...new Set(runs.flatMap((run) => run.blocks.map((block) => block.tower)))];
  const most = Math.max(...runs.map((run) => run.blocks.length));
  const [rows, columns] = narrow.matches ? [towers.length, 1] : [1, towers.length];
  const legend = 22 * Math.ceil(data.runs ? (runs.length * 2) / (narrow.matches ? 1 : 4) : 1);
  const layout = {
    grid: { rows, columns, pattern: "independent", xgap: 0.08, ygap: 0.22 },
    annotations: towers.flatMap((tower, panel) => [heading(tower, panel), ...exact(runs, tower, panel)]),
    legend: { orientation: "h", x: 0, yref: "container", y: 1, yanchor: "top" },
    margin: { l: 48, r: 12, t: 32 + legend, b: 40 },
    height: 80 + legend + 270 * rows,
  };
  towers.forEach((_, panel) => {
    layout[`xaxis${axisNumber(panel)}`] = { title: { text: "block" }, dtick: Math.ceil(most / 24), showgrid: false, zeroline: false };
    layout[`yaxis${axisNumber(panel)}`] = { title: { text: "SQNR, dB" }, rangemode: "tozero", ...(panel && { matches: "y" }) };
  });
  const traces = towers.flatMap((tower, panel) => runs.flatMap((run, number) => depthLines(run, number, tower, panel)));
  return { traces, layout };
}

function axisNumber(panel) {
  return panel ? panel + 1 : "";
}

/** The two lines of one run in one tower's panel. */
function depthLines(run, number, tower, panel) {
  const blocks = run.blocks.filter((block) => block.tower === tower);
  const color = style(`series-${(number % symbols.length) + 1}`);
  const kinds = [["piled up", "cumulative_sqnr_db", "solid"], ["made here", "local_sqnr_db", "dot"]];
  return kinds.map(([name, field, dash], kind) => ({
    name: plain(`${run.name} ${name}`.trim()),
    legendgroup: `${number} ${kind}`,
    showlegend: panel === 0,
    mode: "lines+markers",
    x: blocks.map((block) => block.index),
    y: blocks.map((block) => block[field]),
    line: { color, dash, width: 2 },
    marker: { size: 7, symbol: symbols[number % symbols.length] + (kind ? "-open" : "") },
    hovertemplate: "block %{x}: %{y:.1f} dB",
    ...(panel && { xaxis: `x${panel + 1}`, yaxis: `y${panel + 1}` }),
  }));
}

function heading(tower, panel) {
  const place = { xref: `x${axisNumber(panel)} domain`, yref: `y${axisNumber(panel)} domain` };
  return { ...place, text: `<b>${plain(tower)} tower</b>`, x: 0, y: 1, xanchor: "left", yanchor: "bottom", showarrow: false };
}

/** Says "exact" at every block where some run loses nothing. */
function exact(runs, tower, panel) {
  const lossless = (block) => block.local_sqnr_db === null || block.cumulative_sqnr_db === null;
  const blocks = runs.flatMap((run) => run.blocks).filter((block) => block.tower === tower && lossless(block));
  const place = { xref: `x${axisNumber(panel)}`, yref: `y${axisNumber(panel)} domain`, y: 1, yanchor: "top" };
  const label = { text: "exact", textangle: -90, showarrow: false, font: { color: style("muted") } };
  return [...new Set(blocks.map((block) => block.index))].map((x) => ({ ...place, ...label, x }));
}

/** The 30 layers that harm most alone, and what sparing each of them would leave. */
function sensitivity() {
  const { layers, whole } = data.analyses.sensitivity;
  const worst = layers.toSorted((a, b) => b.alone.logit_kl - a.alone.logit_kl).slice(0, 30).reverse();
  const place = worst.map((_, index) => index);
  const names = { tickvals: place, ticktext: worst.map((layer) => plain(shortName(layer.name))), ...labels() };
  const spared = { ...axes(1), name: "spared", mode: "markers", marker: { color: style("series-2"), size: 9, symbol: "diamond" } };
  const all = { ...axes(1), name: "whole model", mode: "lines", line: { color: style("muted"), dash: "dash" } };
  const traces = [
    { type: "bar", orientation: "h", name: "alone", y: place, x: worst.map((layer) => layer.alone.logit_kl), marker: { color: style("series-1") }, hovertemplate: "%{x:.3g} nats" },
    { ...spared, y: place, x: worst.map((layer) => layer.spared.logit_kl), hovertemplate: "%{x:.3g} nats" },
    { ...all, y: [-0.6, worst.length - 0.4], x: [whole.logit_kl, whole.logit_kl], hovertemplate: "%{x:.3g} nats" },
  ];
  return { traces, layout: { ...sensitivityLayout(names), height: 110 + 22 * worst.length } };
}

/** An axis of names stands off from its bars. */
function labels() {
  return { showgrid: false, ticks: "outside", ticklen: 6, tickcolor: "rgba(0,0,0,0)" };
}

function axes(panel) {
  return { xaxis: `x${axisNumber(panel)}`, yaxis: "y" };
}

function sensitivityLayout(names) {
  return {
    xaxis: { domain: [0, 0.48], title: { text: "KL alone, nats" }, rangemode: "tozero", nticks: 5 },
    xaxis2: { domain: [0.52, 1], title: { text: "KL spared, nats" }, nticks: 5 },
    yaxis: { ...names, zeroline: false, range: [-0.7, names.tickvals.length - 0.3] },
    margin: { l: 48, r: 12, t: 32, b: 48 },
    bargap: 0.35,
  };
}

/** A layer's name within its block, after its tower and the block's number. */
function shortName(name) {
  const block = data.blocks.find((candidate) => name.startsWith(`${candidate.name}.`));
  return block ? `${block.tower} ${block.index} ${name.slice(block.name.length + 1)}` : name;
}
