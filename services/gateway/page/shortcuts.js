/** Keyboard shortcuts: one table, which is also the help that `?` shows. */

import { h } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";

const mac = /Mac|iPhone|iPad/.test(navigator.platform);
/** How the modifier is called on this machine. */
export const MODIFIER = mac ? "⌘" : "Ctrl";

const HELP = [
  [[MODIFIER, "Enter"], "Generate, from anywhere on the page"],
  [["Esc"], "Cancel what is under way"],
  [["M"], "Choose a model"],
  [["P"], "Go to the prompt, or to the first field"],
  [["R"], "Draw a new seed"],
  [["Arrows"], "Move between images; Enter opens one"],
  [["D"], "Download the focused image"],
  [["?"], "Show these shortcuts"],
];

/**
 * Single letters work wherever nothing is being typed.
 *
 * @param {{chooseModel: () => void}} actions
 */
export function installShortcuts({ chooseModel }) {
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-action=shortcuts]")) showShortcuts();
  });
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(event, "[data-key=run]");
    if (event.key === "Escape") act(event, "[data-key=cancel]");
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const action = { "?": showShortcuts, m: chooseModel, r: drawSeed, p: focusFirstField }[event.key];
    if (!action) return;
    // Else the letter would be typed into the field that the action goes to.
    event.preventDefault();
    action();
  });
}

function act(event, selector) {
  const target = usable(selector);
  if (!target) return;
  event.preventDefault();
  target.click();
}

function usable(selector) {
  return [...document.querySelectorAll(`#tool ${selector}`)].find((found) => !found.hidden && !found.disabled);
}

function drawSeed() {
  usable("[data-key=dice]")?.click();
}

function focusFirstField() {
  usable(":is(textarea, input, select)")?.focus();
}

function isTyping(target) {
  return target.matches?.("input:not([type=checkbox], [type=radio], [type=range]), textarea, select, [contenteditable]");
}

function showShortcuts() {
  openDialog("Keyboard shortcuts", () =>
    h(
      "dl.shortcuts",
      {},
      HELP.map(([keys, what]) => h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, what))),
    ),
  );
}
