/** Numbers with a line of what they were lately. */

import { h } from "../components/dom.js";
import { setContent } from "./table.js";

export class Tiles {
  /** @param {HTMLElement} list a `dl`. */
  constructor(list) {
    this.list = list;
    /** @type {Map<string, {tile: HTMLElement, value: HTMLElement, line: HTMLElement}>} */
    this.known = new Map();
  }

  /** @param {{name: string, value: string, line?: SVGElement, alarming?: boolean}[]} wanted */
  update(wanted) {
    for (const { name, value, line, alarming = false } of wanted) {
      const tile = this.known.get(name) ?? this.#added(name);
      setContent(tile.value, value);
      tile.tile.classList.toggle("alarming", alarming);
      if (line) tile.line.replaceChildren(line);
    }
    const names = new Set(wanted.map(({ name }) => name));
    for (const [name, { tile }] of this.known) {
      if (names.has(name)) continue;
      tile.remove();
      this.known.delete(name);
    }
  }

  #added(name) {
    const value = h("dd.tile-value");
    const line = h("dd.tile-line");
    const added = { tile: h("div.tile", {}, h("dt", {}, name), value, line), value, line };
    this.known.set(name, added);
    this.list.append(added.tile);
    return added;
  }
}
