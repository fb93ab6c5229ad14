/** Dialogs over the page: the browser's own element, which keeps the focus and closes on Esc. */

import { h, icon, uniqueId } from "./dom.js";

/**
 * Open a dialog; it is taken from the page once it is closed, and the focus goes back.
 *
 * @param {string} title
 * @param {(close: (value?: any) => void) => Node|Node[]} body what it shows.
 * @param {{wide?: boolean}} [options]
 * @returns {Promise<any>} what it was closed with; `undefined` where the person turned away.
 */
export function openDialog(title, body, { wide = false } = {}) {
  return new Promise((resolve) => {
    let value;
    const before = document.activeElement;
    const close = (given) => {
      value = given;
      dialog.close();
    };
    const id = uniqueId("dialog");
    const dialog = h(
      wide ? "dialog.dialog.wide" : "dialog.dialog",
      { "aria-labelledby": id },
      h(
        "div.dialog-head",
        {},
        h("h2", { id }, title),
        h("button.quiet.icon-only", { type: "button", "aria-label": "Close", onclick: () => close() }, icon("close")),
      ),
      h("div.dialog-body", {}, body(close)),
    );
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(value);
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  });
}
