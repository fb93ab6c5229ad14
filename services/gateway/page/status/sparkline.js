/** A line of what a number was lately, small enough for a table's cell. */

import { svg } from "../components/dom.js";

const [WIDTH, HEIGHT, PAD] = [120, 28, 2];

/**
 * @param {(number|null)[]} values oldest first; null where nothing was measured.
 * @param {{label: string, places: number}} options `places` that a full line has: a shorter one
 *   ends at the right and begins later.
 * @returns {SVGElement} with a name that says what the line shows.
 */
export function sparkline(values, { label, places }) {
  const top = Math.max(...values.map((value) => value ?? 0), 0);
  const first = places - values.length;
  const at = (value, place) => [
    PAD + ((first + place) / Math.max(1, places - 1)) * (WIDTH - 2 * PAD),
    HEIGHT - PAD - (top ? value / top : 0) * (HEIGHT - 2 * PAD),
  ];
  const runs = contiguous(values).map((run) => run.map(([value, place]) => at(value, place)));
  return svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      class: "sparkline",
      role: "img",
      "aria-label": label,
      preserveAspectRatio: "none",
    },
    svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1, class: "base" }),
    runs.map((points) => [
      points.length > 1 && svg("polygon", { class: "area", points: text(closed(points)) }),
      svg("polyline", { class: "line", points: text(points.length > 1 ? points : dot(points[0])) }),
    ]),
  );
}

function contiguous(values) {
  const runs = [];
  values.forEach((value, place) => {
    if (value === null) return;
    const last = runs.at(-1);
    if (last && last.at(-1)[1] === place - 1) last.push([value, place]);
    else runs.push([[value, place]]);
  });
  return runs;
}

function closed(points) {
  return [[points[0][0], HEIGHT - 1], ...points, [points.at(-1)[0], HEIGHT - 1]];
}

function dot([x, y]) {
  return [
    [x - 0.5, y],
    [x + 0.5, y],
  ];
}

function text(points) {
  return points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
}
