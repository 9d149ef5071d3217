// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: The qkit authors
// Charts of one layer: what its trials gain, its operands with their grids, its error.

const MOST_LEVELS = 64;

/** Bars of the dB that each change gains. */
function trials({ layer }) {
  const [names, gains] = [Object.keys, Object.values].map((read) => read(data.layers[layer].trials));
  const bar = {
    type: "bar",
    orientation: "h",
    y: names.map(plain),
    x: gains,
    texttemplate: "%{x:+.1f}",
    textposition: "outside",
    cliponaxis: false,
    marker: { color: gains.map((gain) => style(gain < 0 ? "series-2" : "series-1")) },
    hovertemplate: "%{y}: %{x:+.2f} dB<extra></extra>",
  };
  const reach = [Math.min(0, ...gains), Math.max(0, ...gains)];
  const room = 0.3 * (reach[1] - reach[0] || 1);
  const xaxis = { title: { text: "dB gained" }, range: [reach[0] - (reach[0] && room), reach[1] + 0.8 * room], zerolinecolor: style("muted") };
  const yaxis = { type: "category", autorange: "reversed", ...labels() };
  const height = 80 + 30 * gains.length;
  return { traces: [bar], layout: { xaxis, yaxis, margin: { l: 48, r: 12, t: 8, b: 40 }, bargap: 0.4, height } };
}

/** Histogram of an operand's values, with the grid that they are rounded to. */
function values({ layer, tensor }) {
  const operand = data.layers[layer].tensors[tensor];
  const traces = [bars(operand.values, "values"), ...gridLines(operand)];
  return { traces, layout: { ...histogramLayout(operand.values, "value"), showlegend: traces.length > 1 } };
}

/** Histogram of the error that a layer makes in its output. */
function errors({ layer }) {
  const histogram = data.layers[layer].errors;
  return { traces: [bars(histogram, "errors")], layout: histogramLayout(histogram, "error / rms") };
}

function bars({ low, high, counts }, name) {
  const width = (high - low) / counts.length;
  return {
    type: "bar",
    name,
    showlegend: false,
    x: counts.map((_, bin) => low + (bin + 0.5) * width),
    y: counts,
    width: width || undefined,
    marker: { color: style("series-1"), opacity: 0.75 },
    hovertemplate: "%{x:.4g}: %{y:.4g}",
  };
}

/** The count is logarithmic; the second y axis, 0 to 1, is the grid lines'. */
function histogramLayout({ counts }, title) {
  const seen = counts.filter((count) => count > 0);
  const range = [Math.log10(Math.min(...seen, 1e9)) - 0.4, Math.log10(Math.max(...seen, 1e-9)) + 0.15];
  return {
    xaxis: { title: { text: title }, zeroline: false },
    yaxis: { type: "log", title: { text: "count" }, range: seen.length ? range : [0, 1], dtick: Math.ceil((range[1] - range[0]) / 5), exponentformat: "power", tickfont: { size: 11 } },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    bargap: 0,
  };
}

/** Levels of a grid that is fixed and not too fine, and its ends; nothing for one by token. */
function gridLines(operand) {
  if (operand.grid_low === null || operand.grid_high === null) return [];
  const ends = [operand.grid_low, operand.grid_high];
  const levels = gridLevels(operand);
  const inner = { color: style("series-2"), width: 1 };
  const outer = { color: style("series-2"), width: 2.5, dash: "dash" };
  return [
    ...(levels.length ? [uprights(levels, `${levels.length} levels`, inner)] : []),
    uprights(ends, "grid ends", outer),
  ];
}

/** Values of a grid's integers. Per channel they are the median channel's, around zero. */
function gridLevels({ bits, granularity, grid_low: low, grid_high: high, step }) {
  const count = 2 ** bits;
  if (count > MOST_LEVELS || !step) return [];
  const share = high > low ? -low / (high - low) : 0;
  const start = granularity === "channel" ? -Math.round(share * (count - 1)) * step : low;
  return Array.from({ length: count }, (_, level) => start + level * step);
}

/** Upright lines over the full height, as one trace. */
function uprights(places, name, line) {
  return {
    name,
    mode: "lines",
    yaxis: "y2",
    x: places.flatMap((place) => [place, place, null]),
    y: places.flatMap(() => [0, 1, null]),
    line,
    hovertemplate: "%{x:.4g}",
  };
}
