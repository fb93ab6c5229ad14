/** A choice between a few ways, as buttons of which one is pressed. */

import { h, uniqueId } from "../components/dom.js";

/**
 * @param {string} label
 * @param {Record<string, string>} ways titles by value; the first one is chosen.
 * @param {(value: string) => void} onchange
 * @returns {{element: HTMLElement, value: () => string, set: (value: string) => void}}
 */
export function choice(label, ways, onchange) {
  const name = uniqueId("choice");
  const inputs = Object.keys(ways).map((value, place) =>
    h("input", { type: "radio", name, value, checked: place === 0, onchange: () => onchange(value) }),
  );
  const labels = inputs.map((input) => h("label", {}, input, h("span", {}, ways[input.value])));
  return {
    element: h("fieldset.choice", {}, h("legend", {}, label), h("div.segmented", {}, labels)),
    value: () => inputs.find(({ checked }) => checked).value,
    set(value) {
      const wanted = inputs.find((input) => input.value === value);
      if (!wanted || wanted.checked) return;
      wanted.checked = true;
      onchange(value);
    },
  };
}
