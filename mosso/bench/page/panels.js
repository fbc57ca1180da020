// Sections of several panels: scaling with size, batching, limits, profiles.

function drawScaling() {
  const field = state.choices.quantity;
  const all = data.rows.filter((row) => passes(row, ["system", "status"]) && row.batch === 1 && row.atoms > 0 && current.fits(row));
  const rows = measured(all).filter((row) => row[field] > 0);
  const sizes = (group) => new Set(group.map((row) => row.atoms)).size;
  const series = d3.sort(d3.groups(rows, (row) => row.series).filter(([, group]) => sizes(group) > 1), ([, group]) => -sizes(group));
  const [name, shown] = series.find(([one]) => one === state.choices.series) ?? series[0] ?? ["", []];
  const range = (group) => d3.extent(group, (row) => row.atoms).map((n) => n.toLocaleString("en")).join(" to ");
  options("series", series.map(([one, group]) => [one, `${one}, ${range(group)} atoms`]), name);
  byId("series").parentElement.hidden = !shown.length;
  if (!shown.length) return target("scaling").replaceChildren(say("No series of at least two sizes was measured under these filters."));
  const xs = limits(shown.map((row) => row.atoms), 1.15), ys = limits(shown.map((row) => row[field]), 1.3);
  const models = d3.groups(shown, (row) => row.model);
  target("scaling").classList.toggle("single", models.length === 1);
  const width = panelWidth("scaling", models.length);
  const yLabel = byId("quantity").selectedOptions[0].textContent;
  target("scaling").replaceChildren(...models.map(([model, own]) => {
    const failed = latest(all).filter((row) => row.model === model && row.series === name && row.status !== "ok");
    const among = nameAmong([...own, ...failed]);
    const ends = failed.map((row) => `${among(row)} at ${row.atoms.toLocaleString("en")} (${row.reason ?? row.status})`);
    return h("figure", {}, h("figcaption", {}, model, h("small", {}, [...new Set(own.map(weightsName))].join(", "))),
      lines(curves(own), { width, field, xs, ys, xLabel: "atoms, log scale", yLabel,
        describe: `${yLabel} of ${model} against number of atoms` }),
      ends.length ? h("p", { class: "left-out" }, `No time: ${ends.join("; ")}.`) : null);
  }));
}

/** Width of one of several panels side by side, as the style sheet lays them out. */
function panelWidth(id, count) {
  const width = widthOf(id), columns = count === 1 ? 1 : Math.max(1, Math.floor((width + 32) / (336 + 32)));
  return count === 1 ? Math.min(width, 736) : Math.floor((width + 32) / Math.min(columns, count)) - 32;
}

/** Rows of one model as lines of one configuration each; configurations of a package differ in their dashes. */
function curves(rows) {
  const dashes = ["none", "6 3", "2 3", "9 3 2 3", "12 4"];
  const name = nameAmong(rows), seen = new Map();
  const line = (row) => JSON.stringify([row.package, row.backend, row.precision, row.tf32, row.weights, row.where, row.threads]);
  return d3.groups(rows, line).map(([, group]) => {
    const place = seen.get(group[0].package) ?? 0;
    seen.set(group[0].package, place + 1);
    return { name: name(group[0]), rows: d3.sort(group, (row) => row.atoms), dash: dashes[place % dashes.length] };
  });
}

function drawBatched() {
  byId("batched").hidden = !data.batched.length;
  const found = data.batched.map((pair) => ({ ...pair, row: data.rows[pair.after], single: data.rows[pair.before] }))
    .filter(({ row, ratio }) => ratio != null && passes(row, ["batch"]) && current.fits(row));
  if (!found.length) return target("batched").replaceChildren(say("No batch with its single structure was measured under these filters."));
  const name = nameAmong(found.map(({ row }) => row));
  const [shown, more] = cut(d3.sort(found, (one) => -one.ratio));
  const entries = shown.map(({ row, single, ratio, low, high }) => ({
    row, value: ratio, low, high, name: `${name(row)} · ${systemName(row)}`,
    facts: `${number(single.ms)} ms for one, ${number(row.ms)} ms for ${row.batch} · ${facts(row)}`,
    tip: `${everything(row)}\none by one: ${number(single.ms)} ms each`,
  }));
  target("batched").replaceChildren(
    key(shown.map(({ row }) => row)),
    ranked(entries, { width: Math.min(widthOf("batched"), WIDEST), label: "times the throughput of one by one", named: true, unit: "×" }),
    more ?? "");
}

function drawProfiles() {
  byId("profiles").hidden = !data.profiles.length;
  const FIELDS = ["model", "system", "package", "backend", "precision"];
  const fits = (name, value) => value == null || !state.filters[name].size || state.filters[name].has(value);
  const kept = data.profiles.filter((profile) => FIELDS.every((name) => fits(name, profile[name])));
  if (!kept.length) return target("profiles").replaceChildren(say("No profile under these filters."));
  const width = panelWidth("profiles", kept.length);
  target("profiles").classList.toggle("single", kept.length === 1);
  target("profiles").replaceChildren(...kept.map((profile) => {
    const { model, package: name, backend, precision, system, gpu, device } = profile;
    const title = [model, name, backend, precision, system, gpu ?? device].filter(Boolean).join(" · ");
    return h("figure", {}, h("figcaption", {}, title || "Profile", h("small", {}, profile.verdict)),
      h("p", { class: "left-out" }, aboutProfile(profile)), bars(profile, width), kernels(profile),
      profile.notes.map((note) => h("p", { class: "left-out" }, note)));
  }));
}

const aboutProfile = (profile) => [
  profile.wall_ms != null && `${number(profile.wall_ms)} ms a call${profile.mode ? ` (${profile.mode})` : ""}`,
  profile.launches != null && `${count(profile.launches)} launches`,
  profile.gap_ms != null && `device idle ${number(profile.gap_ms)} ms`,
  profile.gflops != null && `${number(profile.gflops)} GFLOP and ${number(profile.gbytes)} GB at least`,
  profile.limit_share != null && `${(100 * profile.limit_share).toPrecision(2)} % of the limit`,
].filter(Boolean).join(", ");

/** The most expensive kernels, each without those it calls. */
function kernels({ kernels: all, device }) {
  if (!all.length) return null;
  const shown = all.slice(0, 12), what = device === "cpu" ? "op" : "kernel";
  return h("details", {}, h("summary", {}, `The most expensive ${what}s`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Most expensive ${what}s` }, table([
    { ...text(what, (one) => one.kernel), head: true }, amount("time", "µs", (one) => one.us),
    amount("calls", "", (one) => one.launches, (one) => count(one.launches)),
    amount("share", "%", (one) => one.share, (one) => (one.share == null ? NONE : (100 * one.share).toFixed(1))),
  ], shown)));
}

function bars({ blocks, device }, width) {
  const step = 60, right = 84, top = 8, bottom = 38;
  // Without a device of its own, what is not inside an op is the rest.
  const [first, second] = device === "cpu" ? ["ops", "rest"] : ["device", "host"];
  const kinds = [["device_ms", first, "var(--c0)", -0.02], ["host_ms", second, "var(--c4)", 0.21]];
  const entries = kinds.flatMap(([field, name, fill, shift]) =>
    blocks.map((block, place) => ({ name, fill, value: block[field], at: place + 0.62 + shift })));
  const known = entries.filter((entry) => entry.value != null);
  return picture({
    width, height: step * blocks.length + top + bottom, marginLeft: 2, marginRight: right, marginTop: top, marginBottom: bottom,
    ariaLabel: "Time on the device and on the host of each block", x: { domain: [0, d3.max(known, (entry) => entry.value) || 1] },
    y: { domain: [0, blocks.length], range: [top, top + step * blocks.length], axis: null },
    marks: [
      Plot.gridX({ ...GRID, ticks: width / 90 }), Plot.axisX({ label: "ms per call", tickSize: 0, labelArrow: "none", ticks: width / 90 }),
      Plot.rect(known, { x1: 0, x2: "value", y1: (entry) => entry.at - 0.09, y2: (entry) => entry.at + 0.09, fill: "fill" }),
      Plot.text(entries, { x: (entry) => entry.value ?? 0, y: "at", text: (entry) => `${entry.name} ${number(entry.value)}`,
        textAnchor: "start", dx: 6, fontSize: 11, fill: (entry) => entry.fill }),
      Plot.text(blocks, { x: () => 0, y: (_, place) => place + 0.34, ...NAME, lineWidth: width / 13,
        text: (block) => `${block.block}${block.launches == null ? "" : `, ${count(block.launches)} launches`}` }),
    ],
  });
}

/** How large a system can be, and how long the first answer takes: tasks without a time of a call. */
function drawLimits() {
  const rows = measured();
  const panels = [
    ["largest", (row) => row.atoms, "atoms of the largest system that fits"],
    ["startup", startOf, "s from the start of a process to its first result"],
  ].map(([task, value, label]) => [rows.filter((row) => row.task === task && value(row) != null), value, label])
    .filter(([own]) => own.length);
  byId("limits").hidden = !data.rows.some((row) => row.status === "ok" && ["largest", "startup"].includes(row.task));
  if (!panels.length) return target("limits").replaceChildren(say("Neither was measured under these filters."));
  target("limits").classList.toggle("single", panels.length === 1);
  target("limits").replaceChildren(...panels.map(([own, value, label]) => {
    const name = nameAmong(own), [shown, more] = cut(d3.sort(own, (row) => (label.startsWith("atoms") ? -value(row) : value(row))));
    const entries = shown.map((row) => ({ row, value: value(row), name: `${name(row)} · ${systemName(row)}`,
      facts: [precisionName(row), weightsName(row), row.again_s != null && `${number(row.again_s)} s the next time`].filter(Boolean).join(" · ") }));
    return h("figure", {}, key(own), ranked(entries, { width: panelWidth("limits", panels.length), label, named: true }), more);
  }));
}

const startOf = (row) => (row.first_call_s == null ? null : (row.start_s ?? 0) + (row.load_s ?? 0) + row.first_call_s);
