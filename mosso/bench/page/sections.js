// Sections of one chart: which rows it shows, and what it says when there are none.

const MOST = { chart: 24, contests: 60, table: 250 }; // entries of a list before a button offers the rest

const WIDEST = 1000; // pixels, of a single chart
const target = (id) => document.querySelector(`#${id} .chart`);
const widthOf = (id) => Math.max(280, Math.floor(target(id).clientWidth));
const say = (text) => h("p", { class: "empty" }, text);

/** The first entries of a list, and a button for the rest. */
function cut(entries, most = MOST.chart) {
  if (state.choices.all || entries.length <= most * 1.2) return [entries, null];
  const onclick = (event) => {
    // The button goes away, so the keyboard stays at the head of its section.
    const head = event.target.closest("section").querySelector("h2");
    head.tabIndex = -1;
    head.focus({ preventScroll: true });
    choose("all", "1");
  };
  return [entries.slice(0, most), h("button", { type: "button", class: "reset more", onclick },
    `Show all ${entries.length.toLocaleString("en")}`)];
}

function options(id, entries, chosen) {
  const list = entries.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  byId(id).replaceChildren(...list);
  byId(id).value = chosen;
}

const facts = (row) => [truthName(row), precisionName(row), weightsName(row)].join(" · ");

/** Task and precision that the charts show, from what the filters leave; and which rows that is. */
let current;

function chooseCharts() {
  const timed = measured().filter((row) => row.ms != null);
  const most = (groups, usual) =>
    (groups.find(([name]) => name === usual) ?? d3.greatest(groups, ([, rows]) => rows.length) ?? ["", []])[0];
  const tasks = d3.groups(timed, (row) => row.task);
  // Where nothing is chosen: the task in which most pairs can be compared, and of those the one with most models.
  const pairs = (task) => data.contests[""].filter(({ ours, peer }) => peer != null && data.rows[ours]?.task === task).length;
  const models = (rows) => new Set(rows.map((row) => row.model)).size;
  const usual = d3.sort(tasks, ([name]) => -pairs(name), ([, rows]) => -models(rows), ([name]) => name !== "forces", ([, rows]) => -rows.length)[0]?.[0] ?? "";
  const task = tasks.find(([name]) => name === state.choices.chart_task)?.[0] ?? usual;
  const ofTask = timed.filter((row) => row.task === task);
  const precisions = d3.groups(ofTask, (row) => row.precision);
  const wanted = state.choices.chart_precision;
  const precision = wanted === "all" || precisions.some(([name]) => name === wanted) ? wanted : most(precisions, "fp32");
  options("chart_task", tasks.map(([name]) => [name, taskName(name)]), task);
  options("chart_precision", [...d3.sort(precisions.map(([name]) => [name, name])), ["all", "every precision"]], precision);
  current = { task, precision, ofTask, fits: (row) => row.task === task && (precision === "all" || row.precision === precision) };
  chooseView();
}

/** One system, batch and machine for the charts that show one. */
const viewOf = (row) => JSON.stringify([row.system, row.batch, row.where]);

function chooseView() {
  const groups = d3.sort(d3.groups(current.ofTask, viewOf), ([, [row]]) => row.series, ([, [row]]) => row.atoms);
  // Where nothing is chosen: what most configurations have; of several such, the system that others publish, or the first.
  const usual = d3.sort(groups, ([, rows]) => -rows.length, ([, [row]]) => row.system !== data.published.name_here)[0];
  const [name, rows] = groups.find(([one]) => one === state.choices.view) ?? usual ?? ["", []];
  const machines = new Set(groups.map(([, [row]]) => row.where)).size > 1;
  options("view", groups.map(([one, [row]]) => [one, `${systemName(row)}${machines ? `, ${row.where}` : ""}`]), name);
  current.view = rows;
}

const describe = ([row]) =>
  [systemName(row), row.atoms == null ? "" : `${count(row.atoms)} atoms`, taskName(row.task), row.where, threadsName(row)]
    .filter(Boolean).join(", ");

function drawContests() {
  const set = state.filters.set.size === 1 ? [...state.filters.set][0] : "";
  const except = ["package", "backend", "set", "weights", "status"];
  const found = data.contests[set]
    .map((contest) => ({ ...contest, ours: data.rows[contest.ours], peer: data.rows[contest.peer] }))
    .filter(({ ours, peer }) => ours && peer && passes(ours, except) && current.fits(ours));
  byId("contests").hidden = !data.contests[""].some((contest) => "ours" in contest && "peer" in contest);
  const none = "No model was measured with mosso and with a peer under these filters.";
  if (!found.length) return target("contests").replaceChildren(say(none));
  const words = { faster: "mosso is faster in", slower: "a peer is faster in", "no difference": "there is no difference in",
    "no interval": "one round only, so no interval, in" };
  const counts = Object.keys(words).map((verdict) => [verdict, found.filter((one) => one.verdict === verdict).length]);
  const told = counts.filter(([, count]) => count).map(([verdict, count]) => `${words[verdict]} ${count}`).join(", ");
  const [shown, more] = cut(d3.sort(found, (one) => one.ours.model, (one) => one.ours.series, (one) => one.ours.atoms), MOST.contests);
  target("contests").replaceChildren(h("p", { class: "told" }, `Of ${found.length} ${found.length > 1 ? "pairs" : "pair"}: ${told}.`),
    key(shown.flatMap(({ ours, peer }) => [ours, peer])), dumbbells(shown, widthOf("contests")), more ?? "");
}

function dumbbells(contests, width) {
  const narrow = width < 640, step = 58, top = 40, right = narrow ? 12 : 230, across = (narrow ? width : width - right) / 12;
  const domain = limits(contests.flatMap(({ ours, peer }) => [ours.ms, peer.ms]), 1.4);
  const entries = contests.map((one, place) => ({ ...one, at: place + 0.74, start: domain[0], end: domain[1] }));
  const several = (field) => new Set(contests.map(({ ours }) => field(ours))).size > 1;
  const title = ({ ours }) =>
    [ours.model, systemName(ours), several((row) => row.precision) && ours.precision, several((row) => row.where) && ours.where]
      .filter(Boolean).join(" · ");
  const side = (row) => `${row.package} ${row.backend} ${number(row.ms)} ms`;
  const both = ({ ours, peer }, name) => [...new Set([name(ours), name(peer)])].filter(Boolean).join(" / ");
  const words = narrow
    ? Plot.text(entries, { x: "end", y: (one) => one.at - 0.56, text: verdictOf, fill: toneOf, fontWeight: 600, textAnchor: "end",
      stroke: "var(--paper)", strokeWidth: 6 })
    : Plot.text(entries, { x: "end", y: "at", text: (one) => `${verdictOf(one)} ${rangeOf(one)}`, fill: toneOf, fontWeight: 600,
      textAnchor: "start", dx: 12 });
  return picture({
    width, height: entries.length * step + top + 4, marginLeft: 4, marginRight: right, marginTop: top, marginBottom: 4,
    ariaLabel: "Time of mosso and of the fastest peer for the same model", x: { type: "log", domain },
    y: { domain: [0, entries.length], range: [top, top + entries.length * step], axis: null },
    marks: [
      ...logAxis("x", domain, "ms per call, log scale", width / 90, TOP),
      Plot.text(entries, { ...NAME, x: "start", y: (one) => one.at - 0.56, text: title, lineWidth: across - (narrow ? 9 : 0) }),
      Plot.text(entries, { ...ASIDE, x: "start", y: (one) => one.at - 0.3,
        text: (one) => [side(one.ours), side(one.peer), both(one, tf32Name), both(one, weightsName)].filter(Boolean).join(" · "),
        lineWidth: across * 1.08 }),
      Plot.ruleY(entries, { y: "at", x1: (one) => one.ours.ms, x2: (one) => one.peer.ms, stroke: "var(--edge)", strokeWidth: 1.5 }),
      Plot.dot(entries, { y: "at", x: (one) => one.peer.ms, symbol: (one) => shape(one.peer), r: 5.5, stroke: (one) => color(one.peer),
        fill: "var(--paper)", strokeWidth: 2 }),
      Plot.dot(entries, { y: "at", x: (one) => one.ours.ms, symbol: (one) => shape(one.ours), r: 6, fill: (one) => color(one.ours) }),
      words,
      Plot.tip(entries, Plot.pointerY({ y: "at", x: (one) => one.ours.ms, ...TIP,
        title: (one) => `${everything(one.ours)}\n\n${everything(one.peer)}` })),
    ],
  });
}

/** Numbers of others for the system shown, as entries beside ours: open and grey. */
function published(batch) {
  const { rows, hardware } = data.published;
  return rows.map((row) => ({ ...row, ms: batch === 1 ? row.ms : row.ms_batch16 })).filter((row) => row.ms != null).map((row) => ({
    ms: row.ms, atoms_per_s: (1e3 * 64 * batch) / row.ms, peak_memory_GB: batch === 1 ? null : row.memory_MB / 1e3,
    package: "", published: true,
    name: `${row.model} · published by others`,
    facts: `${hardware}, through ${row.through} · TF32, error not stated · ${batch > 1 ? "identical copies" : "one run"}`,
  }));
}

function drawRanking() {
  const rows = current.view.filter(current.fits);
  const memory = rows.some((row) => row.memory_of === "process") ? "peak memory of the process, GB" : "peak memory, GB";
  const offered = rows.length > 0 && rows[0].system === data.published.name_here && rows[0].machine.hardware.device === "cuda"
    && [1, 16].includes(rows[0].batch);
  byId("others").checked = state.choices.others === "1";
  byId("others").parentElement.hidden = !offered;
  if (!rows.length) return target("ranking").replaceChildren(say("No row under these filters has a time."));
  const name = nameAmong(rows);
  const own = rows.map((row) => ({ row, name: name(row), facts: facts(row) }));
  const others = offered && state.choices.others === "1" ? published(rows[0].batch) : [];
  const foreign = others.map((row) => ({ row, name: row.name, facts: row.facts, open: true,
    tip: `${row.name}\n${row.facts}\n${number(row.ms)} ms` }));
  const [shown, more] = cut(d3.sort([...own, ...foreign], (entry) => entry.row.ms));
  const width = widthOf("ranking"), wide = width > 700, side = wide ? Math.floor((width - 48) / 3.5) : width;
  const panel = (field, label, more) =>
    ranked(shown.map((entry) => ({ ...entry, value: entry.row[field],
      ...(field === "ms" ? { low: entry.row.ms_low, high: entry.row.ms_high } : {}) })), { label, ...more });
  target("ranking").replaceChildren(
    h("figure", {}, h("figcaption", {}, describe(rows)), key(rows),
      h("div", { class: "trio" },
        panel("ms", "ms per call, log scale", { width: wide ? Math.floor(side * 1.5) : width, named: true, log: true }),
        panel("atoms_per_s", "atoms per second", { width: side, named: !wide }),
        panel("peak_memory_GB", memory, { width: side, named: !wide }))),
    more ?? "", withoutTime(rows));
}

/** What was tried at the same place and has no time, with the reason: a paragraph, or nothing. */
function withoutTime([first]) {
  const rows = latest(filtered()).filter((row) => row.status !== "ok" && current.fits(row) && viewOf(row) === viewOf(first));
  const line = (row) => h("li", {}, [row.model, row.package, row.backend, row.precision].join(" · "), ": ",
    h("b", { class: `status-${row.status}` }, row.status), `, ${row.reason ?? "no reason given"}`);
  return rows.length ? h("details", { class: "left-out" }, h("summary", {}, `${rows.length} without a time here`),
    h("ul", {}, rows.map(line))) : "";
}

function drawErrors() {
  const field = state.choices.error, rows = current.view;
  const known = rows.filter((row) => row[field] != null && row.ms != null);
  if (!known.length) return target("errors").replaceChildren(say("No row of the chosen system has this error."));
  const positive = known.filter((row) => row[field] > 0).map((row) => row[field]);
  const floor = (d3.min(positive) ?? 1e-15) / 20;
  const name = nameAmong(known, { marked: true });
  const entries = known.map((row) => ({
    row, name: name(row), x: row.ms, low: row.ms_low, high: row.ms_high, y: row[field] || floor, open: !exact(row),
  }));
  const none = known.length - positive.length;
  const label = byId("error").selectedOptions[0].textContent;
  target("errors").replaceChildren(h("figure", {}, h("figcaption", {}, describe(rows)), key(known),
    scatter(entries, { width: Math.min(widthOf("errors"), WIDEST), xLabel: "ms per call, log scale", yLabel: `Error of ${label}`,
      yTick: powerTick, describe: "Error against time of one call" })),
    !none ? ""
      : h("p", { class: "left-out" }, `${none} without any difference from its truth (such as float64 itself), drawn on the lowest line.`),
    known.length < rows.length ? h("p", { class: "left-out" }, `${rows.length - known.length} with a time have no such error.`) : "");
}

function drawPareto() {
  const rows = current.view.filter((row) => row.atoms_per_s != null && current.fits(row)), shapes = state.choices.shapes === "1";
  const scored = rows.filter((row) => row.cps != null);
  const others = rows.filter((row) => row.cps == null && row.cps_of_shape != null);
  byId("shapes").checked = shapes;
  byId("shapes").parentElement.hidden = !others.length;
  byId("pareto-note").textContent =
    "The combined performance score (CPS) of matbench-discovery, 0 to 1, says how well a checkpoint predicts stability, heat " +
    "conductivity and relaxed structures. It belongs to a checkpoint: full marks were timed with exactly that one, and only they make " +
    "the front (no other is both faster and better). " +
    (shapes ? "Open marks are the speed of the same shape with other weights beside the score of the published checkpoint." : "");
  const shown = [...scored, ...(shapes ? others : [])];
  if (!shown.length) {
    const why = others.length ? ` ${others.length} of the same shape ran with random weights or a file's; the box above shows them.` : "";
    return target("pareto").replaceChildren(say(`Nothing here was timed with a checkpoint that has a score.${why}`));
  }
  const name = nameAmong(shown, { marked: true, modelled: true });
  const entries = shown.map((row) => ({ row, name: name(row), x: row.atoms_per_s, y: row.cps ?? row.cps_of_shape, open: row.cps == null,
    tip: `${everything(row)}\nCPS ${(row.cps ?? row.cps_of_shape).toFixed(3)}` +
      (row.cps == null ? " of the published checkpoint, not of these weights" : "") }));
  const range = d3.extent(entries, (entry) => entry.y);
  const linearY = [Math.max(0, range[0] - 0.08), Math.min(1, range[1] + 0.06)];
  target("pareto").replaceChildren(h("figure", {}, h("figcaption", {}, describe(rows)), key(shown),
    scatter(entries, { width: Math.min(widthOf("pareto"), WIDEST), xLabel: "atoms per second, log scale", yLabel: "CPS", linearY,
      line: front(entries.filter((entry) => !entry.open)), describe: "Score of the checkpoint against throughput" })));
}

/** Entries that no other beats in both speed and score, the fastest first. */
function front(entries) {
  let best = -Infinity;
  return d3.sort(entries, (entry) => -entry.x, (entry) => -entry.y).filter((entry) => entry.y > best && ((best = entry.y), true));
}
