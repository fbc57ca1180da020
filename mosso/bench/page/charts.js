// The charts, each a function of rows and a width. Axes of times, sizes and errors are logarithmic.

const FONT = { fontSize: "12px", color: "var(--ink)", background: "transparent" };
const TOP = { anchor: "top", labelAnchor: "left" }; // long lists have their axis where reading begins
const NAME = { textAnchor: "start", fill: "var(--ink)", fontWeight: 600, textOverflow: "ellipsis" };
const ASIDE = { textAnchor: "start", fill: "var(--quiet)", fontSize: 11, textOverflow: "ellipsis" };
const TIP = { fontSize: 12, lineHeight: 1.25, fill: "var(--raised)", stroke: "var(--edge)" };
const GRID = { stroke: "var(--line)", strokeOpacity: 1 };

/** A chart as one picture with a name; tables hold its numbers for who cannot see it. */
function picture(options) {
  const svg = Plot.plot({ style: FONT, ...options });
  svg.setAttribute("role", "img");
  return svg;
}

/** Limits that hold all values and a little more; at least a factor of three wide. */
function limits(values, room = 1.25) {
  let [low, high] = d3.extent(values.filter((value) => value > 0));
  const lack = Math.max(1, Math.sqrt(3 / (high / low)));
  low /= room * lack;
  high *= room * lack;
  return [low, high];
}

/** Ticks of a logarithmic axis: powers of ten, with 2 and 5 between where there is room. */
function logTicks([low, high], most = 7) {
  const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1);
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const all = powers.flatMap((exponent) => factors.map((factor) => Number(`${factor}e${exponent}`)));
    const ticks = all.filter((value) => value >= low && value <= high);
    if (ticks.length <= most || factors.length === 1) return ticks.filter((_, i) => i % Math.ceil(ticks.length / most) === 0);
  }
}

// The texts of ticks are given as such, because a logarithmic scale drops some of those it only formats.
function logAxis(letter, domain, label, most, more) {
  const ticks = logTicks(domain, most);
  const axis = letter === "x" ? Plot.axisX : Plot.axisY;
  const grid = letter === "x" ? Plot.gridX : Plot.gridY;
  const labelAnchor = letter === "x" ? "right" : "top";
  return [grid(ticks, GRID), axis(ticks, { label, text: tick, tickSize: 0, labelArrow: "none", labelAnchor, ...more })];
}

/** Open marks and bars are of another kind than the full ones beside them; the text by the chart says which. */
const fillOf = (entry) => (entry.open ? "var(--paper)" : color(entry.row));

/** Rows one under the other with a bar or a mark each. Names and what belongs to a number stand above it. */
function ranked(entries, { width, label, named, log, unit = "", describe }) {
  const step = 54, left = named ? 2 : 6, right = 78, top = 40, bottom = 4;
  const values = entries.flatMap((entry) => [entry.value, entry.low, entry.high]).filter((value) => value != null);
  if (!values.length) return h("p", { class: "left-out" }, `${label}: ${NONE}`);
  const domain = log ? limits(values) : [0, d3.max(values)];
  const shown = entries.map((entry, place) => ({ ...entry, at: place + 0.76 }));
  const known = shown.filter((entry) => entry.value != null);
  const ends = known.map((entry) => ({ ...entry, end: entry.high ?? entry.value }));
  const marks = [];
  if (log) {
    marks.push(...logAxis("x", domain, label, width / 70, TOP));
    marks.push(Plot.ruleY(known.filter((entry) => entry.low != null),
      { y: "at", x1: "low", x2: "high", stroke: (entry) => color(entry.row), strokeWidth: 2 }));
    marks.push(Plot.dot(known, { x: "value", y: "at", symbol: (entry) => shape(entry.row), fill: fillOf,
      stroke: (entry) => color(entry.row), strokeWidth: 1.8, r: 5 }));
  } else {
    marks.push(Plot.gridX({ ...GRID, ticks: Math.max(2, width / 90) }));
    marks.push(Plot.axisX({ label, tickFormat: tick, tickSize: 0, labelArrow: "none", ticks: Math.max(2, width / 90), ...TOP }));
    marks.push(Plot.rect(known, { x1: 0, x2: "value", y1: (entry) => entry.at - 0.12, y2: (entry) => entry.at + 0.12, fill: fillOf,
      stroke: (entry) => color(entry.row), rx: 1 }));
    marks.push(Plot.ruleY(known.filter((entry) => entry.low != null),
      { y: "at", x1: "low", x2: "high", stroke: "var(--ink)", strokeWidth: 1.5 }));
  }
  marks.push(Plot.text(ends, { x: "end", y: "at", text: (entry) => `${number(entry.value)}${unit}`, textAnchor: "start", dx: 11,
    fontWeight: 600 }));
  marks.push(Plot.text(shown.filter((entry) => entry.value == null),
    { frameAnchor: "left", y: "at", text: () => NONE, fill: "var(--quiet)" }));
  if (named) {
    const across = (width - left) / 12;
    marks.push(Plot.text(shown, { ...NAME, x: () => domain[0], y: (entry) => entry.at - 0.6, text: "name", lineWidth: across * 0.98 }));
    marks.push(Plot.text(shown, { ...ASIDE, x: () => domain[0], y: (entry) => entry.at - 0.34, text: "facts", lineWidth: across * 1.06 }));
  }
  marks.push(Plot.tip(known, Plot.pointerY({ x: "value", y: "at", title: (entry) => entry.tip ?? everything(entry.row), ...TIP })));
  return picture({
    width, height: step * entries.length + top + bottom, marginLeft: left, marginRight: right, marginTop: top, marginBottom: bottom,
    x: { type: log ? "log" : "linear", domain }, y: { domain: [0, entries.length], range: [top, top + step * entries.length], axis: null },
    ariaLabel: describe ?? label, marks,
  });
}

/** Two logarithmic axes (or a linear y), a mark and a name for every entry with x and y. */
function scatter(entries, { width, height = 420, xLabel, yLabel, linearY, yTick, line, describe }) {
  const left = 56, right = 24, top = 30, bottom = 42;
  const xs = limits(entries.map((entry) => entry.x), 1.5);
  const ys = linearY ?? limits(entries.map((entry) => entry.y), 2.5);
  const x = d3.scaleLog(xs, [left, width - right]);
  const y = (linearY ? d3.scaleLinear : d3.scaleLog)(ys, [height - bottom, top]);
  const points = entries.map((entry) => ({
    x: x(entry.x), y: y(entry.y), text: entry.name, row: entry.row, from: x(entry.low ?? entry.x), to: x(entry.high ?? entry.x),
  }));
  const yAxis = linearY
    ? [Plot.gridY({ ...GRID, ticks: 6 }), Plot.axisY({ label: yLabel, tickSize: 0, labelArrow: "none", ticks: 6 })]
    : [Plot.gridY(logTicks(ys), GRID), Plot.axisY(logTicks(ys), { label: yLabel, text: yTick ?? tick, tickSize: 0, labelArrow: "none" })];
  const place = { x: "x", y: "y", symbol: (entry) => shape(entry.row), r: 6 };
  return picture({
    width, height, marginLeft: left, marginRight: right, marginTop: top, marginBottom: bottom, ariaLabel: describe,
    x: { type: "log", domain: xs }, y: { type: linearY ? "linear" : "log", domain: ys },
    marks: [
      ...logAxis("x", xs, xLabel, width / 80), ...yAxis,
      line ? Plot.line(line, { x: "x", y: "y", curve: "step-after", stroke: "var(--quiet)", strokeWidth: 1.5 }) : null,
      Plot.ruleY(entries.filter((entry) => entry.low != null),
        { y: "y", x1: "low", x2: "high", stroke: (entry) => color(entry.row), strokeWidth: 1.5 }),
      Plot.dot(entries.filter((entry) => !entry.open), { ...place, fill: (entry) => color(entry.row) }),
      Plot.dot(entries.filter((entry) => entry.open),
        { ...place, stroke: (entry) => color(entry.row), fill: "var(--paper)", strokeWidth: 1.8 }),
      ...labelMarks(beside(points, { left, right: width, top: top - 4, bottom: height - bottom + 4 }), x, y),
      Plot.tip(entries, Plot.pointer({ x: "x", y: "y", title: (entry) => entry.tip ?? everything(entry.row), ...TIP })),
    ],
  });
}

/** One panel of lines: groups of rows sorted by atoms, both axes logarithmic, names at the ends where there is room. */
function lines(groups, { width, height = 320, field, xs, ys, xLabel, yLabel, describe }) {
  const texts = groups.map((group) => group.name);
  const wanted = d3.max(texts, (text) => text.length) * LETTER + 14;
  const named = wanted < width * 0.45;
  const left = 46, right = named ? wanted : 16, top = 30, bottom = 42;
  const x = d3.scaleLog(xs, [left, width - right]), y = d3.scaleLog(ys, [height - bottom, top]);
  const last = d3.max(groups, (group) => group.rows.at(-1).atoms);
  const labels = groups.map(({ name, rows }) => {
    const end = rows.at(-1), point = { x: x(end.atoms), y: y(end[field]), text: name, row: end };
    // A line that stops early has its name above its end, out of the way of the others.
    return end.atoms === last ? { ...point, x: point.x + 9, anchor: "start" }
      : { ...point, x: point.x + 6, y: point.y - 11, anchor: "end" };
  });
  const early = labels.filter(({ anchor }) => anchor === "end").map((label) => ({ ...label, y: -label.y })); // these make room upwards
  const ends = [...apart(labels.filter(({ anchor }) => anchor === "start"), top, height - bottom),
    ...apart(early, bottom - height, -top).map((label) => ({ ...label, y: -label.y }))];
  const rows = groups.flatMap((group) => group.rows);
  const plot = picture({
    width, height, marginLeft: left, marginRight: right, marginTop: top, marginBottom: bottom, ariaLabel: describe,
    x: { type: "log", domain: xs }, y: { type: "log", domain: ys },
    marks: [
      ...logAxis("x", xs, xLabel, (width - right) / 60), ...logAxis("y", ys, yLabel, 7),
      groups.map((group) => Plot.line(group.rows,
        { x: "atoms", y: field, stroke: color(group.rows[0]), strokeWidth: 1.8, strokeDasharray: group.dash })),
      field !== "ms" ? null
        : Plot.ruleX(rows.filter((row) => row.ms_low != null), { x: "atoms", y1: "ms_low", y2: "ms_high", stroke: color }),
      Plot.dot(rows, { x: "atoms", y: field, symbol: shape, fill: color, r: 3.8 }),
      named ? labelMarks(ends, x, y) : null,
      Plot.tip(rows, Plot.pointer({ x: "atoms", y: field, title: everything, ...TIP })),
    ],
  });
  return named ? [plot] : [plot, h("ul", { class: "key" }, groups.map((group) => h("li", {}, stroke(group), group.name)))];
}

function stroke(group) {
  const svg = d3.create("svg").attr("width", 30).attr("height", 12).attr("viewBox", "-15 -6 30 12").attr("aria-hidden", "true");
  svg.append("line").attr("x1", -15).attr("x2", 15).attr("stroke-width", 1.8).attr("stroke-dasharray", group.dash)
    .style("stroke", color(group.rows[0]));
  svg.append("path").attr("d", d3.symbol(shape(group.rows[0]), 36)()).style("fill", color(group.rows[0]));
  return svg.node();
}
