// Names beside marks instead of a legend: placed where they do not cover each other.

const LETTER = 6.3; // mean width in pixels of a letter at 11 pixels
const LINE = 14;

/** Lines of text at one x: moved apart in y (pixels) as little as possible, within top and bottom. */
function apart(labels, top, bottom) {
  const sorted = d3.sort(labels, (label) => label.y);
  const lowest = bottom - LINE * (sorted.length - 1);
  let last = -Infinity;
  sorted.forEach((label, i) => {
    label.y = last = Math.min(Math.max(label.y, last + LINE, top), Math.max(lowest, top) + LINE * i);
  });
  return sorted;
}

/**
 * Points with x, y, an interval from .. to about x (pixels) and text: each gets a side where its name fits in the frame, or none
 * (the box on hover still tells).
 */
function beside(points, { left, right, top, bottom }) {
  const taken = points.map(({ from, to, y }) => [from - 6, y - 6, to + 6, y + 6]);
  const free = (box) =>
    box[0] >= left && box[2] <= right && box[1] >= top && box[3] <= bottom &&
    !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
  const sides = [["start", 10, 0], ["end", -10, 0], ["middle", 0, -14], ["middle", 0, 14], ["start", 8, -11], ["start", 8, 11],
    ["end", -8, -11], ["end", -8, 11]];
  const placed = [];
  for (const point of points) {
    const long = point.text.length * LETTER;
    for (const [anchor, dx, dy] of sides) {
      const start = point.x + dx - (anchor === "end" ? long : anchor === "middle" ? long / 2 : 0);
      const box = [start, point.y + dy - LINE / 2, start + long, point.y + dy + LINE / 2];
      if (!free(box)) continue;
      taken.push(box);
      placed.push({ ...point, x: point.x + dx, y: point.y + dy, anchor });
      break;
    }
  }
  return placed;
}

/** Marks of Plot for placed labels; scales give back what Plot wants from pixels. */
function labelMarks(labels, x, y, fill) {
  return ["start", "middle", "end"].map((anchor) =>
    Plot.text(labels.filter((label) => label.anchor === anchor), {
      x: (label) => x.invert(label.x), y: (label) => y.invert(label.y), text: "text", textAnchor: anchor, fontSize: 11,
      fill: fill ?? ((label) => color(label.row)), stroke: "var(--paper)", strokeWidth: 4, paintOrder: "stroke",
    }));
}

/** The packages that a chart shows, with their marks. */
function key(rows) {
  const one = new Map(rows.map((row) => [row.package, row]));
  return h("ul", { class: "key" }, packages.filter((name) => one.has(name)).map((name) => h("li", {}, symbol(one.get(name)), name)));
}

function symbol(row) {
  const svg = d3.create("svg").attr("width", 14).attr("height", 14).attr("viewBox", "-7 -7 14 14").attr("aria-hidden", "true");
  svg.append("path").attr("d", d3.symbol(shape(row), 70)()).style("fill", color(row));
  return svg.node();
}
