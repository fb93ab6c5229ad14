/** How every tool stands on the page: what is asked on the left, what comes of it on the right. */

import { h } from "../components/dom.js";

/**
 * @param {Node[]} fields
 * @param {import("./action.js").Action} action is started by its button and by Enter in a field.
 * @param {...Node} shown
 * @returns {HTMLElement}
 */
export function splitView(fields, action, ...shown) {
  const submit = (event) => {
    event.preventDefault();
    action.start();
  };
  return h(
    "div.split",
    {},
    h("form.split-form", { novalidate: true, "aria-label": "Parameters", onsubmit: submit }, fields, action.foot),
    h("div.split-canvas", {}, action.head, shown),
  );
}
