/** Sliders over some dimensions of a latent, a page of them at a time. */

import { fill, h, uniqueId } from "../components/dom.js";
import { minus } from "./numbers.js";
import { byMagnitude, changed } from "./tensors.js";

const SHOWN = 8;
/** Standard deviations that a slider reaches to each side, at least. */
export const REACH = 3;

export class Sliders {
  /**
   * @param {{onchange: () => void, onchoose: (place: number) => void}} options `onchoose`: a
   *   dimension is to be shown on its own.
   */
  constructor({ onchange, onchoose }) {
    this.onchange = onchange;
    this.onchoose = onchoose;
    /** @type {import("./tensors.js").Tensor|null} */
    this.start = null;
    /** @type {Map<number, number>} */
    this.changes = new Map();
    this.order = [];
    this.page = 0;
    this.list = h("div.sliders", { role: "group", "aria-label": "Latent dimensions" });
    this.where = h("span.hint");
    this.back = h("button", { type: "button", onclick: () => this.#turn(-1) }, "Previous");
    this.next = h("button", { type: "button", onclick: () => this.#turn(1) }, "Next");
    this.resetButton = h("button", { type: "button", onclick: () => this.reset() }, "Reset all");
    this.element = h("div.slider-panel", { hidden: true }, this.list, h("div.row", {}, this.back, this.next, this.where), h("div.row", {}, this.resetButton));
  }

  /** @param {import("./tensors.js").Tensor} start whose values the sliders begin at. */
  begin(start) {
    this.start = start;
    this.order = byMagnitude(start);
    this.page = 0;
    this.element.hidden = false;
    this.reset();
  }

  /** @returns {import("./tensors.js").Tensor} the latent as the sliders stand. */
  get latent() {
    return changed(this.start, this.changes);
  }

  reset() {
    this.changes.clear();
    this.#draw();
    this.onchange();
  }

  /** Put one dimension to a value, as its slider would. */
  set(place, value) {
    this.changes.set(place, value);
    this.#draw();
    this.onchange();
  }

  #turn(by) {
    this.page += by;
    this.#draw();
  }

  #draw() {
    const places = this.order.slice(this.page * SHOWN, (this.page + 1) * SHOWN);
    const count = this.order.length;
    const last = Math.min((this.page + 1) * SHOWN, count);
    this.where.textContent = `${this.page * SHOWN + 1} to ${last} of ${count}, those far from zero first`;
    this.back.disabled = this.page === 0;
    this.next.disabled = last >= count;
    fill(this.list, places.map((place) => this.#row(place)));
  }

  #row(place) {
    const id = uniqueId("latent");
    const value = this.latent.values[place];
    const reach = Math.max(REACH, Math.ceil(Math.abs(this.start.values[place])));
    const shown = h("output.slider-value", { for: id }, written(value));
    const slider = h("input", {
      id,
      type: "range",
      min: -reach,
      max: reach,
      step: 0.05,
      value,
      oninput: () => {
        this.changes.set(place, Number(slider.value));
        shown.textContent = written(Number(slider.value));
        share();
        this.onchange();
      },
    });
    const share = () => slider.style.setProperty("--share", `${(100 * (Number(slider.value) + reach)) / (2 * reach)}%`);
    share();
    const name = `z${place + 1}`;
    return h(
      "div.slider-row",
      {},
      h("label", { for: id }, name),
      slider,
      shown,
      h("button.quiet", { type: "button", "aria-label": `Show ${name} as a strip`, onclick: () => this.onchoose(place) }, "Strip"),
    );
  }
}

function written(value) {
  return minus(value.toFixed(2));
}
