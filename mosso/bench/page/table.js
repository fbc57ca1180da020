// Tables: every row, scores, published numbers, environments; and the box with all of one row.

const text = (name, field, show) => ({ name, of: field, show: show ?? ((row) => field(row) ?? NONE) });
const amount = (name, unit, field, show) => ({ name, unit, of: field, number: true, show: show ?? ((row) => number(field(row))) });

const COLUMNS = {
  model: { ...text("model", (row) => row.model), head: true,
    show: (row) => h("button", { type: "button", onclick: () => openDetails(row) }, row.model) },
  package: text("package", (row) => row.package),
  backend: text("backend", (row) => row.backend),
  system: text("system", (row) => row.system),
  batch: amount("batch", "", (row) => row.batch, (row) => String(row.batch)),
  task: text("task", (row) => row.task, (row) => h("span", { title: taskName(row.task) }, shortTask(row))),
  precision: text("precision", (row) => row.precision),
  status: { ...text("status", (row) => row.status, statusOf), wide: true },
  ms: amount("time", "ms (95 %)", (row) => row.ms,
    (row) => [timeOf(row), row.ms_low == null ? "" : h("span", { class: "quiet" }, ` ${interval(row.ms_low, row.ms_high)}`)]),
  atoms_per_s: amount("throughput", "atoms/s", (row) => row.atoms_per_s),
  ns_per_day: amount("dynamics", "ns/day, 1 fs", (row) => row.ns_per_day),
  memory: amount("peak memory", "GB", (row) => row.peak_memory_GB,
    (row) => `${number(row.peak_memory_GB)}${row.memory_of === "process" ? " process" : ""}`),
  error_forces: amount("force error", "eV/Å", (row) => row.error_forces),
  error_energy: amount("energy error", "eV/atom", (row) => row.error_energy),
  error_stress: amount("stress error", "eV/Å³", (row) => row.error_stress),
  truth: text("errors against", (row) => row.truth),
  tolerance: text("tolerance", (row) => row.tolerance),
  atoms: amount("atoms", "", (row) => row.atoms, (row) => count(row.atoms)),
  tf32: text("TF32", (row) => (row.tf32 == null ? null : row.tf32 ? "on" : "off")),
  weights: text("weights", (row) => row.weights),
  first: amount("first call", "s", (row) => row.first_call_s),
  limit: amount("of the limit", "%", (row) => row.limit_share,
    (row) => (row.limit_share == null ? NONE : (100 * row.limit_share).toPrecision(2))),
  where: text("machine", (row) => row.where),
  set: text("results", (row) => row.set),
};

function statusOf(row) {
  const word = h("span", { class: `status-${row.status}` }, row.status);
  return row.status === "ok" ? word : [word, `: ${row.reason ?? "no reason given"}`];
}

const timeOf = (row) => (row.ms != null ? number(row.ms) : row.status === "ok" ? NONE : "no time");

/** A table of entries; every cell is made by its column. */
function table(columns, entries, headers) {
  const cell = (column, entry) => {
    const kind = [column.number && "number", column.wide && "wide"].filter(Boolean).join(" ");
    return h(column.head ? "th" : "td", { class: kind || null, scope: column.head && "row" }, column.show(entry));
  };
  const head = (column) =>
    h("th", { scope: "col", class: column.number && "number" }, column.name, column.unit ? h("small", {}, column.unit) : null);
  const top = headers ?? columns.map(head);
  return h("table", {}, h("thead", {}, h("tr", {}, top)),
    h("tbody", {}, entries.map((entry) => h("tr", {}, columns.map((column) => cell(column, entry))))));
}

/** The large table is made once; drawing it again changes its body, so that the keyboard stays where it was. */
function makeRows() {
  const headers = Object.entries(COLUMNS).map(([id, column]) =>
    h("th", { scope: "col", class: column.number && "number", "data-column": id },
      h("button", { type: "button", onclick: () => sortBy(id) }, column.name), column.unit ? h("small", {}, column.unit) : null));
  byId("rows").append(table(Object.values(COLUMNS), [], headers));
}

function sortBy(id) {
  const now = state.choices.sort;
  choose("sort", now === id ? `-${id}` : now === `-${id}` ? "" : id);
}

function drawRows() {
  const descending = state.choices.sort.startsWith("-"), id = state.choices.sort.replace(/^-/, "");
  const column = Object.hasOwn(COLUMNS, id) ? COLUMNS[id] : null;
  const missing = (row) => column.of(row) == null;
  const order = descending ? d3.descending : d3.ascending;
  const entries = filtered();
  // What is not known comes last, whichever way the rest is sorted.
  if (column) entries.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : order(column.of(a), column.of(b))));
  for (const header of byId("rows").querySelectorAll("th[data-column]")) {
    if (header.dataset.column === id) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  }
  const [shown, more] = cut(entries, MOST.table);
  byId("rows").querySelector("tbody").replaceWith(table(Object.values(COLUMNS), shown).tBodies[0]);
  byId("rows-more").replaceChildren(more ?? "");
}

function openDetails(row) {
  const { machine, place, same, environment, ...own } = row;
  const fields = Object.entries(own).filter(([, value]) => value != null && value !== "");
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const hardware = Object.entries(machine.hardware).map(([name, value]) => `${name} ${value}`).join(", ");
  const pairs = [...fields.filter(([name]) => name !== "command"), ["hardware", hardware], ["versions", versions]];
  const dialog = byId("details");
  dialog.replaceChildren(
    h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
    h("h2", { id: "details-title" }, `${row.model}, ${row.package}, ${systemName(row)}`),
    h("p", { class: "quiet" }, "To measure it again:"), h("p", {}, h("code", {}, row.command)),
    h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")),
      h("dd", {}, Array.isArray(value) ? value.join(" to ") : String(value))])));
  dialog.showModal();
}
