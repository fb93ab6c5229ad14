/** Painting a mask over an image: with a mouse, a finger, a pen, the keyboard, or by numbers. */

import { announce } from "../components/announce.js";
import { h, icon, uniqueId } from "../components/dom.js";
import { Bitmap } from "./bitmap.js";

const KEYS =
  "Arrow keys move the brush, with Shift they paint on the way. Space paints where it stands. E changes between " +
  "brush and eraser, square brackets change the size, Control Z undoes, Control Y does again.";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** Shown over what is marked. */
const VEIL = [232, 62, 110, 150];

export class Painter {
  /**
   * @param {number} width of the mask, in the model's pixels.
   * @param {number} height
   * @param {() => void} onchange after every change of the mask.
   */
  constructor(width, height, onchange = () => {}) {
    this.mask = new Bitmap(width, height);
    this.onchange = onchange;
    this.size = Math.max(1, Math.round(Math.min(width, height) / 6));
    this.value = 1;
    this.place = { x: Math.floor(width / 2) + 0.5, y: Math.floor(height / 2) + 0.5 };
    /** @type {{x: number, y: number}|null} where a stroke of the pointer has come to. */
    this.stroke = null;
    this.element = h(
      "div.painter",
      { role: "group", "aria-label": "Mask" },
      h("p.painter-title", {}, "Paint over what is to be made anew"),
      ...this.#stage(),
      this.#toolbar(),
      this.#numbers(),
    );
    this.#resize(this.size);
    this.#draw();
  }

  /** Show an image, scaled to the model's size; its mask is begun anew. */
  async show(blob) {
    const bitmap = await createImageBitmap(blob);
    this.image.getContext("2d").drawImage(bitmap, 0, 0, this.image.width, this.image.height);
    bitmap.close();
    this.mask = new Bitmap(this.mask.width, this.mask.height);
    this.#changed();
  }

  /** @returns {Promise<Blob>} a PNG of the model's size, white where the image is made anew. */
  blob() {
    const canvas = h("canvas", { width: this.mask.width, height: this.mask.height });
    canvas.getContext("2d").putImageData(this.#imageData(this.mask.pixels()), 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** @param {(mask: Bitmap) => void} change is one step of undo. */
  change(change) {
    this.mask.begin();
    change(this.mask);
    this.#changed();
  }

  /** Say what is wrong with the mask, such as that it marks nothing. */
  complain(message) {
    this.said.textContent = message;
    this.said.classList.add("wrong");
    this.stage.focus();
    announce(message, { urgent: true });
    return "";
  }

  #toolbar() {
    const sizeId = uniqueId("brush-size");
    this.brush = this.#tool("Brush", 1);
    this.eraser = this.#tool("Eraser", 0);
    this.range = h("input", {
      id: sizeId,
      type: "range",
      min: 1,
      max: Math.max(2, Math.round(Math.min(this.mask.width, this.mask.height) / 2)),
      value: this.size,
      oninput: () => this.#resize(Number(this.range.value)),
    });
    this.undoButton = this.#button("Undo", "restore", () => this.#again("undo"));
    this.redoButton = this.#button("Redo", "restore", () => this.#again("redo"), "mirrored");
    return h(
      "div.painter-tools",
      { role: "group", "aria-label": "Brush" },
      h("div.segmented", {}, this.brush, this.eraser),
      h("label.painter-size", { for: sizeId }, h("span", {}, "Size"), this.range),
      h("div.painter-history", {}, this.undoButton, this.redoButton),
      h("button", { type: "button", onclick: () => this.change((mask) => mask.invert()) }, "Invert"),
      h("button", { type: "button", onclick: () => this.change((mask) => mask.clear()) }, "Clear"),
    );
  }

  #tool(name, value) {
    return h("button", { type: "button", "aria-pressed": String(this.value === value), onclick: () => this.#take(value) }, name);
  }

  #button(name, drawing, act, kind = "") {
    return h("button.icon-only", { type: "button", title: name, "aria-label": name, class: kind, onclick: act }, icon(drawing));
  }

  #stage() {
    const { width, height } = this.mask;
    const help = uniqueId("painter-help");
    this.image = h("canvas.painter-image", { width, height, "aria-hidden": "true" });
    this.veil = h("canvas.painter-veil", { width, height, "aria-hidden": "true" });
    this.cursor = h("div.painter-cursor", { hidden: true });
    this.stage = h(
      "div.painter-stage",
      {
        tabindex: 0,
        role: "application",
        "aria-label": "Mask",
        "aria-describedby": help,
        onpointerdown: (event) => this.#down(event),
        onpointermove: (event) => this.#move(event),
        onpointerup: () => (this.stroke = null),
        onpointercancel: () => (this.stroke = null),
        onpointerleave: () => this.#showCursor(document.activeElement === this.stage),
        onfocus: () => this.#showCursor(this.stage.matches(":focus-visible")),
        onblur: () => this.#showCursor(false),
        onkeydown: (event) => this.#key(event),
      },
      this.image,
      this.veil,
      this.cursor,
    );
    this.stage.style.setProperty("--shape", `${width} / ${height}`);
    this.stage.style.setProperty("--wide", String(width / height));
    this.said = h("p.painter-said");
    return [this.stage, this.said, h("p.unseen", { id: help }, KEYS)];
  }

  #numbers() {
    const { width, height } = this.mask;
    const field = (name, value, most) => {
      const input = h("input", { type: "number", min: 0, max: most, step: 1, value });
      return { input, label: h("label.stacked", {}, h("span", {}, name), input) };
    };
    const fields = {
      left: field("Left", Math.round(width / 4), width - 1),
      top: field("Top", Math.round(height / 4), height - 1),
      width: field("Width", Math.round(width / 2), width),
      height: field("Height", Math.round(height / 2), height),
    };
    const fillIn = (value) => () => {
      const [left, top, wide, high] = ["left", "top", "width", "height"].map((name) => Number(fields[name].input.value));
      this.change((mask) => mask.rectangle(left, top, wide, high, value));
    };
    return h(
      "details.painter-numbers",
      {},
      h("summary", {}, "A rectangle by numbers"),
      h("div.painter-fields", {}, Object.values(fields).map(({ label }) => label)),
      h(
        "div.row",
        {},
        h("button", { type: "button", onclick: fillIn(1) }, "Mark it"),
        h("button", { type: "button", onclick: fillIn(0) }, "Unmark it"),
        h("span.hint", {}, `In pixels of the model, ${width} × ${height}`),
      ),
    );
  }

  #down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.mask.begin();
    this.stroke = this.#at(event);
    this.mask.stamp(this.stroke.x, this.stroke.y, this.size, this.value);
    this.#moveTo(this.stroke);
    this.#changed();
  }

  #move(event) {
    const to = this.#at(event);
    this.#moveTo(to);
    this.#showCursor(true);
    if (!this.stroke) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const next = this.#at(part);
      this.mask.stroke(this.stroke, next, this.size, this.value);
      this.stroke = next;
    }
    this.mask.stroke(this.stroke, to, this.size, this.value);
    this.stroke = to;
    this.#changed();
  }

  #key(event) {
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (MOVES[key]) this.#walk(MOVES[key], event.shiftKey);
    else if (key === " ") this.change((mask) => mask.stamp(this.place.x, this.place.y, this.size, this.value));
    else if (control && key === "z") this.#again(event.shiftKey ? "redo" : "undo");
    else if (control && key === "y") this.#again("redo");
    else if (control) return;
    else if (key === "e") this.#take(1 - this.value);
    else if (key === "[") this.#resize(this.size - 1);
    else if (key === "]") this.#resize(this.size + 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.#showCursor(true);
  }

  #walk([right, down], painting) {
    const { width, height } = this.mask;
    const step = Math.max(1, Math.round(Math.min(width, height) / 32));
    const clamp = (value, most) => Math.min(Math.max(value, 0.5), most - 0.5);
    const from = this.place;
    const to = { x: clamp(from.x + right * step, width), y: clamp(from.y + down * step, height) };
    if (painting) this.change((mask) => mask.stroke(from, to, this.size, this.value));
    this.#moveTo(to);
    const state = this.mask.has(Math.floor(to.x), Math.floor(to.y)) ? "marked" : "not marked";
    announce(`Column ${Math.floor(to.x)}, row ${Math.floor(to.y)}, ${state}`);
  }

  #take(value) {
    this.value = value;
    this.brush.setAttribute("aria-pressed", String(value === 1));
    this.eraser.setAttribute("aria-pressed", String(value === 0));
  }

  #resize(size) {
    const most = Number(this.range.max);
    this.size = Math.min(Math.max(size, 1), most);
    this.range.value = this.size;
    this.range.style.setProperty("--share", `${(100 * (this.size - 1)) / (most - 1)}%`);
    this.#moveTo(this.place);
  }

  #again(way) {
    if (this.mask[way]()) this.#changed();
  }

  #at(event) {
    const box = this.veil.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.mask.width,
      y: ((event.clientY - box.top) / box.height) * this.mask.height,
    };
  }

  #moveTo(place) {
    this.place = place;
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    const { style } = this.cursor;
    style.left = percent(place.x, this.mask.width);
    style.top = percent(place.y, this.mask.height);
    style.width = percent(this.size, this.mask.width);
  }

  #showCursor(visible) {
    this.cursor.hidden = !visible;
  }

  #changed() {
    this.#draw();
    this.onchange();
  }

  #draw() {
    const { count, cells, past, future } = this.mask;
    const pixels = new Uint8ClampedArray(cells.length * 4);
    cells.forEach((cell, index) => cell && pixels.set(VEIL, index * 4));
    this.veil.getContext("2d").putImageData(this.#imageData(pixels), 0, 0);
    this.undoButton.disabled = past.length === 0;
    this.redoButton.disabled = future.length === 0;
    const share = Math.round((100 * count) / cells.length);
    this.said.classList.remove("wrong");
    this.said.textContent = count
      ? `${share || "Less than 1"} % is made anew; the rest is kept.`
      : "Nothing is marked yet.";
  }

  #imageData(pixels) {
    return new ImageData(pixels, this.mask.width, this.mask.height);
  }
}
