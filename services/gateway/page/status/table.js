/**
 * A table whose cells change in place: who reads it with a screen reader or has selected something
 * keeps their place while the numbers move.
 */

import { h } from "../components/dom.js";

/**
 * @typedef {object} Column
 * @property {string} title
 * @property {string} [hint] what it means.
 * @property {boolean} [numeric] set to the right.
 */

export class LiveTable {
  /**
   * @param {HTMLElement} container
   * @param {string} caption for screen readers.
   * @param {Column[]} columns the first one names the row.
   */
  constructor(container, caption, columns) {
    this.columns = columns;
    this.body = h("tbody");
    this.empty = h("p.empty", { hidden: true });
    /** @type {Map<string, {row: HTMLElement, cells: HTMLElement[]}>} */
    this.rows = new Map();
    const head = columns.map((column) =>
      h("th", { scope: "col", title: column.hint, class: column.numeric ? "numeric" : "" }, column.title),
    );
    this.table = h("table", {}, h("caption.unseen", {}, caption), h("thead", {}, h("tr", {}, head)), this.body);
    container.replaceChildren(this.table, this.empty);
  }

  /**
   * @param {{key: string, cells: (string|Node)[]}[]} wanted in order.
   * @param {string} nothing is said where there are no rows.
   */
  update(wanted, nothing) {
    const keys = new Set(wanted.map(({ key }) => key));
    for (const [key, { row }] of this.rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    wanted.forEach(({ key, cells }, place) => {
      const known = this.rows.get(key) ?? this.#added(key);
      cells.forEach((content, column) => setContent(known.cells[column], content));
      if (this.body.children[place] !== known.row) this.body.insertBefore(known.row, this.body.children[place] ?? null);
    });
    this.table.hidden = wanted.length === 0;
    this.empty.hidden = wanted.length > 0;
    setContent(this.empty, nothing);
  }

  #added(key) {
    const cells = this.columns.map((column, place) =>
      place === 0 ? h("th", { scope: "row" }) : h("td", { class: column.numeric ? "numeric" : "" }),
    );
    const added = { row: h("tr", {}, cells), cells };
    this.rows.set(key, added);
    return added;
  }
}

/** Put text or a node into an element, unless that text is there already. */
export function setContent(element, content) {
  if (content instanceof Node) element.replaceChildren(content);
  else if (element.textContent !== content) element.textContent = content;
}
