// Numbers and names as people read them, and elements of the page. Text of rows becomes text, never markup.

function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const byId = (id) => document.getElementById(id);
const NONE = "n/a";
const SUPERSCRIPT = { "-": "⁻", ...Object.fromEntries([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].map((sign, digit) => [digit, sign])) };

function power(value) {
  const [digits, exponent] = value.toExponential(1).split("e");
  return `${digits}×10${[...String(Number(exponent))].map((sign) => SUPERSCRIPT[sign]).join("")}`;
}

/** Three digits; powers of ten where there would be many zeros; n/a for what is not known. */
function number(value) {
  if (value == null) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3) return power(value);
  if (size >= 99.95) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}

const powerTick = (value) => power(value).replace("1.0×", "").replace(".0×", "×");

/** Short form for ticks: 10k, 2M, 10⁻⁶. */
function tick(value) {
  if (value === 0) return "0";
  if (value >= 1000) return d3.format("~s")(value).replace("G", "B");
  if (value >= 1e-3) return String(Number(value.toPrecision(3)));
  return powerTick(value);
}

function taskName(task) {
  const names = {
    forces: "energy and forces", stress: "energy, forces, stress", "forces+list": "energy and forces, with list",
    "stress+list": "energy, forces, stress, with list", list: "neighbour list", md: "MD step, own engine", "md-ase": "MD step through ASE",
    largest: "largest system that fits", startup: "start-up to first result",
  };
  return names[task] ?? task;
}

// Of rows in tables.
const TASKS = { forces: "E+F", stress: "E+F+S", "forces+list": "E+F, list", "stress+list": "E+F+S, list", md: "MD", "md-ase": "MD, ASE",
  startup: "start-up" };
const shortTask = (row) => TASKS[row.task] ?? row.task;
const systemName = (row) => (row.batch > 1 ? `${row.system} × ${row.batch}` : row.system);
const tf32Name = (row) => (row.tf32 == null ? "" : row.tf32 ? "TF32 on" : "TF32 off");
const precisionName = (row) => [row.precision, tf32Name(row)].filter(Boolean).join(", ");
const weightsName = (row) => (row.weights ? `${row.weights} weights` : "weights n/a");
const threadsName = (row) => (row.threads == null ? "" : row.threads === 1 ? "1 thread" : `${row.threads} threads`);
const exact = (row) => row.truth?.startsWith("fp64"); // whether the error is that against float64
const truthName = (row) =>
  row.error_forces == null ? "error n/a"
    : `force error ${number(row.error_forces)} eV/Å${exact(row) ? "" : ` against ${row.truth ?? NONE}`}`;
const count = (value) => (value == null ? NONE : Number.isInteger(value) ? value.toLocaleString("en") : number(value));
const interval = (low, high) => (low == null || high == null ? "" : `${number(low)} to ${number(high)}`);

/** What sets a row apart from the others in the same chart; without the package where its mark stands for it. */
function nameAmong(rows, { marked = false, modelled = false } = {}) {
  const fields = [
    (row) => row.model, ...(marked ? [] : [(row) => row.package]), (row) => row.backend, (row) => row.precision, tf32Name, weightsName,
    (row) => row.where, threadsName,
  ];
  const nameOf = (chosen) => (row) => chosen.map((field) => field(row)).filter(Boolean).join(" · ");
  const distinct = (chosen) => new Set(rows.map(nameOf(chosen))).size;
  // A field is named where it tells rows apart that the fields before it do not.
  const telling = fields.reduce((chosen, field) => (distinct([...chosen, field]) > distinct(chosen) ? [...chosen, field] : chosen),
    modelled ? [fields[0]] : []);
  return nameOf(telling.length ? telling : [fields[0]]);
}

/** All that belongs to a number, for the box beside a mark. */
function everything(row) {
  const lines = [
    `${row.model}\n${row.package}, ${row.backend}`,
    `${precisionName(row)}; ${weightsName(row)}`,
    `${systemName(row)}, ${taskName(row.task)}`,
    `${number(row.ms)} ms${row.ms_low == null ? "" : ` (${interval(row.ms_low, row.ms_high)})`}`,
    ...(row.ms_p5 == null ? [] : [`of all calls, 5 % to 95 %: ${interval(row.ms_p5, row.ms_p95)} ms`]),
    `${number(row.atoms_per_s)} atoms/s, peak ${number(row.peak_memory_GB)} GB`,
    `force error ${number(row.error_forces)} eV/Å against ${row.truth ?? NONE}`,
    [row.where, threadsName(row)].filter(Boolean).join(", "),
  ];
  if (data.sets.length > 1) lines.push(row.set);
  return lines.join("\n");
}
