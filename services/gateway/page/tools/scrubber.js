/** A strip of frames with a large view of one, and a slider that runs through them. */

import { announce } from "../components/announce.js";
import { fill, h } from "../components/dom.js";
import { saveBlob } from "../components/files.js";
import { fileName, isSharp } from "../gallery.js";

const PLAY_MS = 160;

export class Scrubber {
  /**
   * @param {import("../registry.js").Context} context frames are kept where the person asks for it.
   */
  constructor(context) {
    this.keep = context.keep;
    this.kind = isSharp(context.model) ? "sharp" : "";
    const { signal } = context;
    /** @type {(import("../visit.js").Picture|null)[]} */
    this.frames = [];
    this.kept = new Set();
    this.at = 0;
    this.large = h("img.scrubber-large", { alt: "", class: this.kind, hidden: true });
    this.where = h("p.scrubber-where", { "aria-live": "off" });
    this.slider = h("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 1,
      value: 0,
      "aria-label": "Frame",
      oninput: () => this.show(Number(this.slider.value)),
    });
    this.playButton = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#toggle() }, "Play");
    this.strip = h("ol.strip", {});
    this.keepButton = h("button", { type: "button", onclick: () => this.#keep() }, "Keep this frame");
    this.saveButton = h("button", { type: "button", onclick: () => this.#save() }, "Download it");
    this.element = h(
      "div.scrubber",
      { hidden: true },
      h("div.scrubber-view", {}, this.large),
      h("div.scrubber-bar", {}, this.playButton, this.slider, this.where),
      this.strip,
      h("div.row", {}, this.keepButton, this.saveButton),
    );
    signal.addEventListener("abort", () => this.stop());
  }

  /** As many empty frames. */
  begin(count) {
    this.stop();
    this.frames = Array(count).fill(null);
    this.at = 0;
    this.element.hidden = false;
    this.slider.max = count - 1;
    this.slider.value = 0;
    this.large.hidden = true;
    fill(
      this.strip,
      this.frames.map((_, index) =>
        h(
          "li",
          {},
          h("button.strip-frame", { type: "button", "aria-label": `Frame ${index + 1}`, disabled: true, onclick: () => this.show(index) }),
        ),
      ),
    );
    this.#mark();
  }

  /** @param {number} index @param {import("../visit.js").Picture} frame */
  set(index, frame) {
    this.frames[index] = frame;
    const button = this.#button(index);
    button.disabled = false;
    fill(button, h("img", { src: frame.url, alt: "", class: this.kind }));
    if (index === this.at) this.show(index);
  }

  show(index) {
    this.at = index;
    this.slider.value = index;
    const frame = this.frames[index];
    if (frame) {
      this.large.src = frame.url;
      this.large.alt = `Frame ${index + 1} of ${this.frames.length}`;
      this.large.hidden = false;
    }
    this.#mark();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.playButton.setAttribute("aria-pressed", "false");
    this.playButton.textContent = "Play";
  }

  #toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    let step = 1;
    this.playButton.setAttribute("aria-pressed", "true");
    this.playButton.textContent = "Stop";
    this.timer = setInterval(() => {
      const last = this.frames.length - 1;
      if (this.at + step > last || this.at + step < 0) step = -step;
      this.show(Math.min(Math.max(this.at + step, 0), last));
    }, PLAY_MS);
  }

  #mark() {
    const count = this.frames.length;
    const share = count > 1 ? this.at / (count - 1) : 0;
    this.where.textContent = `${this.at + 1} of ${count}`;
    this.keepButton.disabled = !this.frames[this.at] || this.kept.has(this.frames[this.at]);
    this.slider.setAttribute("aria-valuetext", `Frame ${this.at + 1} of ${count}`);
    this.slider.style.setProperty("--share", `${100 * share}%`);
    this.strip.querySelectorAll("button").forEach((button, index) => {
      if (index === this.at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    const current = this.strip.children[this.at];
    if (current) this.strip.scrollLeft = current.offsetLeft - this.strip.clientWidth / 2 + current.clientWidth / 2;
  }

  #button(index) {
    return this.strip.children[index].firstElementChild;
  }

  #keep() {
    this.kept.add(this.frames[this.at]);
    this.keep(this.frames[this.at]);
    announce("Kept in this visit", { urgent: true });
    this.#mark();
  }

  #save() {
    const frame = this.frames[this.at];
    if (frame) saveBlob(frame.blob, fileName(frame).replace(/(\.\w+)$/, `-${this.at + 1}$1`));
  }
}
