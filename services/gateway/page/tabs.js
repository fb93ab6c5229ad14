/** The tools of a model as tabs (WAI-ARIA's pattern: arrow keys move, one tab is in the tab order). */

import { fill, h } from "./components/dom.js";

/**
 * @param {HTMLElement} list
 * @param {import("./registry.js").Tool[]} tools
 * @param {string|undefined} current the id of the tool that is shown.
 * @param {(id: string) => void} open
 */
export function drawTabs(list, tools, current, open) {
  const hadFocus = list.contains(document.activeElement);
  fill(list, tools.map((tool) => tab(tool, tool.id === current, open)));
  const selected = list.querySelector("[aria-selected=true]");
  // Not by scrollIntoView: Chromium would begin the next Tab from here, past the page's own header.
  if (selected) list.scrollLeft = selected.offsetLeft - list.offsetLeft - 24;
  if (hadFocus) selected?.focus();
  list.onkeydown = (event) => move(event, list, open);
}

function tab(tool, selected, open) {
  return h(
    "button.tab",
    {
      type: "button",
      role: "tab",
      id: `tab-${tool.id}`,
      "aria-selected": String(selected),
      "aria-controls": "tool",
      tabindex: selected ? 0 : -1,
      dataset: { tool: tool.id },
      onclick: () => open(tool.id),
    },
    tool.title,
  );
}

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

function move(event, list, open) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const at = tabs.indexOf(document.activeElement);
  if (at < 0) return;
  const to = { Home: 0, End: tabs.length - 1 }[event.key] ?? (event.key in STEPS ? at + STEPS[event.key] : null);
  if (to === null) return;
  event.preventDefault();
  open(tabs[(to + tabs.length) % tabs.length].dataset.tool);
}
