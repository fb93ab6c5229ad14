/** Two pictures over each other, with a line to draw between them, and what differs in their requests. */

import { announce } from "./components/announce.js";
import { h } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";

/** @type {import("./visit.js").Picture|null} */
let first = null;
const listeners = new Set();

/** The picture that waits for another to be compared with. */
export function comparing() {
  return first;
}

/** Be told when that changes, until the signal says otherwise. */
export function onComparing(listener, signal) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
}

/** Choose a picture: the first waits, the second opens the comparison. */
export async function toggleComparing(picture) {
  const other = first;
  choose(other ? null : picture);
  if (!other) announce("Choose another image to compare with.", { urgent: true });
  else if (other.id !== picture.id) await openDialog("Compare", () => comparison(other, picture), { wide: true });
}

function choose(picture) {
  first = picture;
  for (const listener of listeners) listener();
}

function comparison(left, right) {
  const stage = h(
    "div.wipe",
    {},
    h("img.sharp", { src: left.url, alt: `Left: seed ${left.seed}` }),
    h("img.sharp.wipe-top", { src: right.url, alt: `Right: seed ${right.seed}` }),
  );
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    value: 50,
    autofocus: true,
    "aria-label": "Where the left image ends and the right one begins",
    oninput: () => stage.style.setProperty("--at", `${slider.value}%`),
  });
  return [h("div.wipe-frame", {}, stage, slider), differences(left, right)];
}

function differences(left, right) {
  const sides = [left, right].map((picture) => ({ ...picture.request, seed: picture.seed }));
  const names = [...new Set(sides.flatMap(Object.keys))].filter(
    (name) => JSON.stringify(sides[0][name]) !== JSON.stringify(sides[1][name]),
  );
  const shown = (value) => (value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value).slice(0, 200));
  if (!names.length) return h("p.hint", {}, "Both were made by the same request.");
  return h(
    "table.differences",
    {},
    h("thead", {}, h("tr", {}, ["", "Left", "Right"].map((text) => h("th", { scope: "col" }, text || h("span.unseen", {}, "Parameter"))))),
    h("tbody", {}, names.map((name) =>
      h("tr", {}, h("th", { scope: "row" }, name), sides.map((side) => h("td", {}, shown(side[name]))))),
    ),
  );
}
