/**
 * The Markdown that model cards are written in: headings, paragraphs, lists, tables, code, emphasis
 * and links. Text becomes text nodes and nothing else: HTML in a card is shown, not run. Pictures
 * are named, not fetched, and links lead only to the web.
 */

import { h } from "./dom.js";

const INLINE = /(`[^`]+`)|(\*\*[^*]+\*\*)|(\*[^*\s][^*]*\*)|(!?\[[^\]]*\]\([^)\s]*\))/;
const LIST = /^\s*(?:[-*+]|\d+[.)])\s+/;

/**
 * @param {string} text
 * @returns {Node[]}
 */
export function markdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const nodes = [];
  while (lines.length) {
    if (!lines[0].trim()) lines.shift();
    else nodes.push(block(lines));
  }
  return nodes;
}

/** Take one block off the lines; each kind takes at least one line. */
function block(lines) {
  const heading = /^(#{1,6})\s+(.*)$/.exec(lines[0]);
  if (heading) {
    lines.shift();
    // The page's own headings stand above a card's.
    return h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2]));
  }
  if (lines[0].startsWith("```")) return fence(lines);
  if (lines[0].startsWith("|")) return table(taken(lines, (line) => line.startsWith("|")));
  if (LIST.test(lines[0])) return list(lines);
  const words = [lines.shift(), ...taken(lines, (line) => line.trim() && !/^(#{1,6}\s|```|\|)/.test(line) && !LIST.test(line))];
  return h("p", {}, inline(words.join(" ")));
}

function taken(lines, while_) {
  const found = [];
  while (lines.length && while_(lines[0])) found.push(lines.shift());
  return found;
}

function fence(lines) {
  lines.shift();
  const code = taken(lines, (line) => !line.startsWith("```"));
  lines.shift();
  return h("pre", { tabindex: 0 }, h("code", {}, code.join("\n")));
}

function list(lines) {
  const ordered = /^\s*\d/.test(lines[0]);
  const items = [];
  while (lines.length && LIST.test(lines[0])) {
    const first = lines.shift().replace(LIST, "");
    const rest = taken(lines, (line) => /^\s+\S/.test(line) && !LIST.test(line));
    items.push(h("li", {}, inline([first, ...rest.map((line) => line.trim())].join(" "))));
  }
  return h(ordered ? "ol" : "ul", {}, items);
}

function table(rows) {
  const cells = rows.map((row) => row.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim()));
  const body = cells.filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  const [head = [], ...others] = body;
  return h(
    "div.table-scroll",
    { tabindex: 0, role: "region", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, inline(cell))))),
      h("tbody", {}, others.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell)))))),
    ),
  );
}

/** Emphasis, code and links within a line. */
function inline(text) {
  const found = INLINE.exec(text);
  if (!found) return [text];
  const before = text.slice(0, found.index);
  const after = text.slice(found.index + found[0].length);
  return [before, span(found[0]), ...inline(after)];
}

function span(text) {
  if (text.startsWith("`")) return h("code", {}, text.slice(1, -1));
  if (text.startsWith("**")) return h("strong", {}, inline(text.slice(2, -2)));
  if (text.startsWith("*")) return h("em", {}, inline(text.slice(1, -1)));
  const [, label, target] = /\[([^\]]*)\]\(([^)\s]*)\)/.exec(text);
  if (text.startsWith("!")) return h("span.hint", {}, label);
  if (!/^https?:\/\//i.test(target)) return h("span", {}, label);
  return h("a", { href: target, rel: "noopener noreferrer", target: "_blank" }, label);
}
