// The page as a whole: its head, filters and fixed tables are made once; a change of the address draws the rest anew.

function makeHead() {
  const distinct = (field) => new Set(data.rows.map(field).filter((value) => value != null));
  const days = d3.extent(data.rows, (row) => row.started.slice(0, 10));
  const count = (status) => data.rows.filter((row) => row.status === status).length;
  const refused = count("refused"), failed = count("error"), unable = count("unsupported");
  const kinds = [[refused, "refused by their check"], [failed, "with an error"], [unable, "of things a package cannot do"]];
  const without = kinds.filter(([n]) => n);
  byId("summary").textContent =
    `Every number here was measured with one protocol, and is shown with the error of the very configuration that was timed. ` +
    (without.length ? `Rows without a time stay in the table: ${without.map(([n, what]) => `${n} ${what}`).join(", ")}.` : "");
  const facts = [
    ["rows", data.rows.length.toLocaleString("en")], ["models", distinct((row) => row.model).size],
    ["packages", distinct((row) => row.package).size],
    ["systems", distinct(systemName).size], ["measured on", [...distinct((row) => row.where)].join(", ")],
    ["measured", [...new Set(days)].join(" to ")],
  ];
  byId("facts").append(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  byId("made").textContent = `Made by mosso ${data.version} on ${data.made.slice(0, 10)} from ${data.sets.join(", ")}.`;
}

function makeFilters() {
  const form = byId("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const { name, label, values, show, kept } of DIMENSIONS) {
    if (values.length < 2 && !kept) continue;
    const boxes = d3.sort(values, ([value]) => (name === "batch" ? Number(value) : 0)).map(([value, count]) =>
      h("label", {}, h("input", { type: "checkbox", name, value, onchange: (event) => toggle(name, value, event.target.checked) }),
        h("span", {}, show(value)), h("small", {}, String(count))));
    form.append(h("details", { class: "filter", "data-name": name }, h("summary", {}, label),
      h("fieldset", {}, h("legend", {}, label), boxes)));
  }
  form.append(
    h("button", { type: "button", class: "reset", onclick: clear }, "Clear filters"),
    h("div", { class: "shown" }, h("label", {}, "Charts show ", h("select", { id: "chart_task", "aria-label": "Task in the charts" })),
      h("label", {}, "at ", h("select", { id: "chart_precision", "aria-label": "Precision in the charts" })),
      h("output", { class: "count", "aria-live": "polite" })));
  const close = (kept) => form.querySelectorAll("details[open]").forEach((one) => one !== kept && (one.open = false));
  document.addEventListener("click", (event) => close(event.target.closest(".filter")));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.target.closest("details")?.querySelector("summary").focus();
    close(null);
  });
}

function toggle(name, value, on) {
  if (on) state.filters[name].add(value);
  else state.filters[name].delete(value);
  writeAddress();
}

function clear() {
  for (const { name } of DIMENSIONS) state.filters[name].clear();
  writeAddress();
}

function drawFilters() {
  for (const box of byId("filters").querySelectorAll("input")) box.checked = state.filters[box.name].has(box.value);
  for (const one of byId("filters").querySelectorAll(".filter")) {
    const { label } = DIMENSIONS.find(({ name }) => name === one.dataset.name), chosen = state.filters[one.dataset.name];
    one.classList.toggle("active", chosen.size > 0);
    one.querySelector("summary").textContent = chosen.size ? `${label}: ${chosen.size}` : label;
  }
  const active = DIMENSIONS.some(({ name }) => state.filters[name].size);
  byId("filters").querySelector(".reset").hidden = !active;
  byId("filters").querySelector("output").textContent = `${count(filtered().length)} of ${count(data.rows.length)} rows`;
}

function makeChoices() {
  const controls = { theme: "theme", view: "view", error: "error", series: "series", quantity: "quantity", before: "before",
    after: "after", chart_task: "chart_task", chart_precision: "chart_precision" };
  for (const [id, name] of Object.entries(controls)) byId(id).addEventListener("change", (event) => choose(name, event.target.value));
  for (const id of ["shapes", "others"]) byId(id).addEventListener("change", (event) => choose(id, event.target.checked ? "1" : ""));
  // The address holds the filters, so this link moves without changing it.
  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault();
    byId("table").focus();
    byId("table").scrollIntoView();
  });
}

function drawChoices() {
  document.documentElement.dataset.theme = state.choices.theme;
  for (const id of ["theme", "error", "quantity"]) byId(id).value = state.choices[id];
}

function makeFixedTables() {
  const { published, scores } = data;
  byId("scores").append(table([
    { ...text("checkpoint", (score) => score.name), head: true }, amount("CPS", "", (score) => score.cps, (score) => score.cps.toFixed(4)),
    amount("F1", "", (score) => score.f1), amount("κ SRME", "", (score) => score.kappa_srme), amount("RMSD", "Å", (score) => score.rmsd),
  ], d3.sort(scores, (score) => -score.cps)));
  byId("scores").after(h("p", { class: "left-out" },
    "CPS = 0.5 F1 + 0.4 (1 − κ SRME / 2) + 0.1 (1 − RMSD / 0.15 Å), computed here from the three. Source: matbench-discovery, " +
    "github.com/janosh/matbench-discovery at 2c7f9fc (2026-07-16), MIT licence."));
  byId("published-note").append("Not measured by us: numbers of the page ",
    h("a", { href: published.url, rel: "noreferrer" }, published.title), `, ${published.hardware}, ${published.system}. ` +
    "They stand here for reference, and in the chart of times only where its box asks for them, because of how they were made: " +
    `${published.flaws.join("; ")}.`);
  const about = (row, value) => (value == null ? NONE : `${row.approximate ? "about " : ""}${number(value)}`);
  byId("published-table").append(table([
    { ...text("model", (row) => row.model), head: true }, text("through", (row) => row.through),
    amount("one structure", "ms", (row) => row.ms, (row) => about(row, row.ms)),
    amount("batch of 16", "ms", (row) => row.ms_batch16, (row) => about(row, row.ms_batch16)),
    amount("throughput", "atoms/s", (row) => row.atoms_per_s),
    amount("peak memory", "MB", (row) => row.memory_MB, (row) => about(row, row.memory_MB)),
  ], published.rows));
  const list = (pairs) => Object.entries(pairs).map(([name, value]) => `${name} ${value}`).join(", ");
  const used = d3.rollup(data.rows, (rows) => [...new Set(rows.map((row) => row.package))].join(", "), (row) => row.environment);
  const commitsOf = (rows) => [...new Set(rows.map((row) => row.commit?.replace(/^(.{10})[0-9a-f]*/, "$1")).filter(Boolean))].join(", ") || NONE;
  const commits = d3.rollup(data.rows, commitsOf, (row) => row.environment);
  byId("environment").append(table([
    { name: "packages", head: true, show: ({ place }) => used.get(place) },
    { name: "machine", wide: true, show: ({ hardware }) => list(hardware) },
    { name: "versions", wide: true, show: ({ versions }) => list(versions) }, { name: "mosso at", show: ({ place }) => commits.get(place) },
  ], data.environments.map((one, place) => ({ ...one, place }))));
}

function draw() {
  readAddress();
  drawChoices();
  drawFilters();
  chooseCharts();
  const sections = [
    drawContests, drawRanking, drawErrors, drawPareto, drawScaling, drawBatched, drawLimits, drawProfiles, drawComparison, drawRows,
  ];
  for (const section of sections) section();
}

makeHead();
makeFilters();
makeChoices();
makeRows();
makeFixedTables();
draw();
window.addEventListener("hashchange", draw);
let width = document.documentElement.clientWidth, waiting;
window.addEventListener("resize", () => {
  if (document.documentElement.clientWidth === width) return;
  width = document.documentElement.clientWidth;
  clearTimeout(waiting);
  waiting = setTimeout(draw, 120);
});
