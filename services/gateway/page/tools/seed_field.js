/** A field for one seed that is always there, with a button that draws another. */

import { h, icon, uniqueId } from "../components/dom.js";
import { MAX_SEED, drawSeed } from "../widgets.js";

/**
 * @param {string} label
 * @param {number} seed
 * @param {() => void} [onchange]
 * @returns {{element: HTMLElement, value: () => number, set: (seed: number) => void}}
 */
export function seedField(label, seed, onchange = () => {}) {
  const id = uniqueId("seed");
  const input = h("input.number", { id, type: "number", inputmode: "numeric", min: 0, max: MAX_SEED, step: 1, required: true, value: seed, onchange });
  const set = (next) => {
    input.value = String(next);
    onchange();
  };
  const dice = h(
    "button.quiet.icon-only",
    { type: "button", "aria-label": `Draw another ${label.toLowerCase()}`, title: "Draw another", onclick: () => set(drawSeed()) },
    icon("dice"),
  );
  const value = () => {
    if (!input.validity.valid) set(drawSeed());
    return Number(input.value);
  };
  const head = h("div.field-head", {}, h("label.label", { for: id }, label));
  return { element: h("div.field", {}, head, h("div.joined", {}, input, dice)), value, set };
}
