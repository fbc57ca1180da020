// Ratios: in words, and those of two sets of results as a chart and a table.

const toneOf = ({ verdict }) => (verdict === "faster" ? "var(--good)" : verdict === "slower" ? "var(--bad)" : "var(--quiet)");

/** 12.3× faster; 1.20× slower; 1.01×: no difference. */
function verdictOf({ ratio, verdict }) {
  if (verdict === "slower") return `${number(1 / ratio)}× slower`;
  return verdict === "faster" ? `${number(ratio)}× faster` : `${number(ratio)}×: ${verdict}`;
}

function rangeOf({ low, high, verdict }) {
  if (low == null) return "";
  return `(${verdict === "slower" ? interval(1 / high, 1 / low) : interval(low, high)})`;
}

function drawComparison() {
  byId("compare").hidden = data.sets.length < 2;
  if (data.sets.length < 2) return;
  const { before, after } = state.choices;
  for (const id of ["before", "after"]) options(id, data.sets.map((set) => [set, set]), state.choices[id]);
  const found = data.comparisons.find((one) => one.before === before && one.after === after);
  const pairs = (found?.pairs ?? [])
    .map((pair) => ({ ...pair, old: data.rows[pair.before], row: data.rows[pair.after] }))
    .filter(({ row }) => passes(row, ["set"]));
  const counts = d3.rollup(pairs, (group) => group.length, (pair) => pair.verdict ?? "without a time in both");
  const words = d3.sort(counts, ([, count]) => -count).map(([verdict, count]) => `${count} ${verdict}`).join(", ");
  byId("compare-note").textContent = before === after ? "Choose two different sets."
    : !pairs.length ? "No configuration under these filters is in both sets."
    : `${pairs.length.toLocaleString("en")} configurations are in both sets${words ? `: ${words}` : ""}. ` +
      "The ratio is the time before over the time after; above 1, the second set is faster. The largest differences come first.";
  const timed = d3.sort(pairs.filter((pair) => pair.ratio != null), (pair) => -Math.abs(Math.log(pair.ratio)));
  const [shown, more] = cut(timed);
  const name = nameAmong(timed.map(({ row }) => row));
  const named = shown.map((pair) => ({ ...pair, name: `${name(pair.row)} · ${systemName(pair.row)} · ${shortTask(pair.row)}` }));
  target("compare").replaceChildren(timed.length ? ratios(named, Math.min(widthOf("compare"), WIDEST)) : "", more ?? "");
  byId("compare-table").hidden = !pairs.length;
  const [listed, rest] = cut([...timed, ...pairs.filter((pair) => pair.ratio == null)], MOST.table);
  const pick = (name) => ({ ...COLUMNS[name], show: ({ row }) => COLUMNS[name].show(row) });
  byId("compare-table").replaceChildren(table([
    pick("model"), pick("package"), pick("backend"), pick("system"), pick("batch"), pick("task"), pick("precision"),
    { name: "before", unit: "ms", number: true, show: ({ old }) => timeOf(old) },
    { name: "after", unit: "ms", number: true, show: ({ row }) => timeOf(row) },
    { name: "times faster", unit: "(95 %)", number: true,
      show: ({ ratio, low, high }) => `${number(ratio)} ${low == null ? "" : `(${interval(low, high)})`}` },
    { name: "verdict", show: ({ verdict }) => h("span", { class: verdict?.replace(" ", "-") }, verdict ?? NONE) },
    { name: "peak memory", unit: "GB", number: true,
      show: ({ old, row }) => `${number(old.peak_memory_GB)} → ${number(row.peak_memory_GB)}` },
    { name: "force error", unit: "eV/Å", number: true,
      show: ({ old, row }) => `${number(old.error_forces)} → ${number(row.error_forces)}` },
    pick("tf32"), pick("weights"), pick("where"),
  ], listed), rest ?? "");
}

/** Ratios with their intervals about the line of no difference. */
function ratios(pairs, width) {
  const step = 42, top = 8, right = 150, bottom = 38;
  const values = [0.95, 1 / 0.95, ...pairs.flatMap(({ ratio, low, high }) => [ratio, low ?? ratio, high ?? ratio])];
  const domain = limits(values, 1.02).map((value, end) => (end ? Math.max(value, 1.06) : Math.min(value, 0.94)));
  const ticks = domain[1] / domain[0] > 20 ? logTicks(domain, width / 80) : d3.ticks(...domain, width / 130);
  const entries = pairs.map((pair, place) => ({ ...pair, at: place + 0.7 }));
  return picture({
    width, height: step * entries.length + top + bottom, marginLeft: 4, marginRight: right, marginTop: top, marginBottom: bottom,
    ariaLabel: "Time before over time after, with intervals", x: { type: "log", domain },
    y: { domain: [0, entries.length], range: [top, top + step * entries.length], axis: null },
    marks: [
      Plot.gridX(ticks, GRID),
      Plot.axisX(ticks, { label: "times faster, log scale", text: (value) => +value.toPrecision(3), tickSize: 0, labelArrow: "none" }),
      Plot.ruleX([1], { stroke: "var(--edge)", strokeWidth: 1.5 }),
      Plot.ruleY(entries.filter((pair) => pair.low != null), { y: "at", x1: "low", x2: "high", stroke: toneOf, strokeWidth: 2 }),
      Plot.dot(entries, { y: "at", x: "ratio", symbol: ({ row }) => shape(row), fill: toneOf, r: 5 }),
      Plot.text(entries, { y: (pair) => pair.at - 0.36, x: () => domain[0], text: "name", textAnchor: "start", fontSize: 11,
        fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4, lineWidth: (width - 8) / 11.4, textOverflow: "ellipsis" }),
      Plot.text(entries, { y: "at", x: () => domain[1], dx: 8, text: verdictOf, textAnchor: "start", fill: toneOf, fontWeight: 600 }),
    ],
  });
}
