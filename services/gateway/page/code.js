/** The dialog that shows a request as code to copy. */

import { fill, h, icon } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";
import { copyText } from "./components/files.js";
import { snippets } from "./snippets.js";

const CHOSEN = "atelier.code";

/**
 * @param {Record<string, any>} body
 * @param {import("./api.js").Model} model
 */
export function showCode(body, model) {
  return openDialog("As code", () => codeView(snippets(body, model)), { wide: true });
}

function codeView(all) {
  const view = h("div.code-view", {});
  const choose = (id) => {
    sessionStorage.setItem(CHOSEN, id);
    const chosen = all.find((snippet) => snippet.id === id) ?? all[0];
    fill(view, shown(chosen));
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.id === chosen.id)));
  };
  const buttons = all.map(({ id, title }) =>
    h("button", { type: "button", dataset: { id }, onclick: () => choose(id) }, title),
  );
  choose(sessionStorage.getItem(CHOSEN) ?? all[0].id);
  return [h("div.segments", { role: "group", "aria-label": "Language" }, buttons), view];
}

function shown({ text, note, title }) {
  if (!text) return h("p.hint", {}, note);
  const copy = h(
    "button.copy",
    { type: "button", onclick: () => copyText(text, copy) },
    icon("copy"),
    h("span.copy-label", {}, "Copy"),
  );
  return [
    h("div.code-frame", {}, h("pre", { tabindex: 0, role: "region", "aria-label": title }, h("code", {}, text)), copy),
    h("p.hint", {}, note),
  ];
}
