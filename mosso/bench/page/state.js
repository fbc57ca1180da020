// What is shown: the data, and the choices of the reader, which live in the address after '#' so that a link keeps them.

const data = JSON.parse(document.getElementById("data").textContent);
data.rows = unfold(data.rows, data.same.length);
data.rows.forEach((row, place) => Object.assign(row, { place, same: data.same[place], machine: data.environments[row.environment] }));

/** Rows from the columns of build.py. */
function unfold(columns, count) {
  const rows = d3.range(count).map(() => ({}));
  for (const [name, { each, of, at }] of Object.entries(columns))
    rows.forEach((row, place) => { row[name] = each ? each[place] : of[at[place]]; });
  return rows;
}

const ON_GPU = new Set(data.rows.map((row) => row.machine.hardware.device === "cuda"));

// Fields that filter. One that has a single value is offered only where it is `kept`.
const DIMENSIONS = [
  { name: "model", label: "Model", kept: true },
  { name: "package", label: "Package" },
  { name: "backend", label: "Backend" },
  { name: "system", label: "System", kept: true },
  { name: "task", label: "Task", show: taskName },
  { name: "precision", label: "Precision", kept: true },
  { name: "gpu", label: ON_GPU.size > 1 ? "GPU or CPU" : ON_GPU.has(true) ? "GPU" : "CPU", of: (row) => row.where, kept: true },
  { name: "weights", label: "Weights", of: (row) => row.weights ?? "n/a" },
  { name: "batch", label: "Batch", of: (row) => String(row.batch) },
  { name: "status", label: "Status" },
  { name: "set", label: "Results" },
];
for (const dimension of DIMENSIONS) {
  dimension.of ??= (row) => row[dimension.name];
  dimension.show ??= (value) => value;
  dimension.values = [...d3.rollup(data.rows, (rows) => rows.length, dimension.of)];
}

// The two sets that have most in common.
const richest = d3.greatest(data.comparisons, (one) => one.pairs.length);

// Choices other than filters, with what they are when the address does not say.
const CHOICES = {
  theme: "", sort: "", chart_task: "", chart_precision: "", view: "", others: "", error: "error_forces", shapes: "", series: "",
  quantity: "ms", all: "", before: richest?.before ?? "", after: richest?.after ?? "",
};

const state = { filters: {}, choices: {} };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const { name, values } of DIMENSIONS) {
    const known = new Set(values.map(([value]) => value));
    state.filters[name] = new Set(given.getAll(name).filter((value) => known.has(value)));
  }
  for (const [name, otherwise] of Object.entries(CHOICES)) state.choices[name] = given.get(name) ?? otherwise;
}

function writeAddress() {
  const address = new URLSearchParams();
  for (const { name } of DIMENSIONS) for (const value of state.filters[name]) address.append(name, value);
  for (const [name, otherwise] of Object.entries(CHOICES))
    if (state.choices[name] !== otherwise) address.set(name, state.choices[name]);
  // Replaced, so that the way back leads out of the page; the change of the address draws anew.
  location.replace(`#${address}`);
}

function choose(name, value) {
  state.choices[name] = value;
  writeAddress();
}

/** Whether a row passes all filters but those in `except`. */
function passes(row, except = []) {
  return DIMENSIONS.every(({ name, of }) => except.includes(name) || !state.filters[name].size || state.filters[name].has(of(row)));
}

/** Rows for the table. */
const filtered = () => data.rows.filter((row) => passes(row));

/** The last measurement of each configuration: what charts show. */
const latest = (rows) => [...new Map(rows.map((row) => [row.same, row])).values()];

/** Those of them that passed their check. */
const measured = (rows = filtered()) => latest(rows).filter((row) => row.status === "ok");

/** One colour and one shape for each package, the same in every chart. */
const PACKAGES = ["mosso", "mace-torch", "nequip", "nequip-allegro", "orb-models", "sevenn", "fairchem-core", "upet"];
const COLORS = 8; // --c0 to --c7 of the style sheet
const SHAPES = [d3.symbolCircle, d3.symbolDiamond2, d3.symbolTriangle, d3.symbolSquare, d3.symbolStar, d3.symbolWye, d3.symbolCross];
const packages = d3.sort(new Set(data.rows.map((row) => row.package)), (name) => (PACKAGES.indexOf(name) + 1 || 99), (name) => name);
const paletteOf = new Map();
for (const name of packages) {
  const own = PACKAGES.indexOf(name);
  // A package we do not know gets the first colour that no known one here has.
  const taken = new Set([...paletteOf.values()]);
  const free = d3.range(1, 100).find((place) => !taken.has(place) && !packages.includes(PACKAGES[place]));
  paletteOf.set(name, own >= 0 ? own : free);
}
const color = (row) => (row.published ? "var(--quiet)" : `var(--c${paletteOf.get(row.package) % COLORS})`);
// A second round through the colours starts from another shape.
const shape = (row) => row.published ? d3.symbolCircle
  : SHAPES[(paletteOf.get(row.package) + Math.floor(paletteOf.get(row.package) / SHAPES.length)) % SHAPES.length];
