/** An image beside what was made of it, and the others that were made with it. */

import { fill, h } from "../components/dom.js";
import { saveBlob } from "../components/files.js";
import { buildGallery, describe, fileName, isSharp } from "../gallery.js";

export class BeforeAfter {
  /**
   * @param {import("../registry.js").Context} context
   * @param {{empty: string, reuse?: (picture: import("../visit.js").Picture) => void,
   *   easel?: HTMLElement|null}} options `reuse` takes a result as the next original; an easel
   *   stands in the place of the original.
   */
  constructor(context, { empty, reuse, easel = null }) {
    this.model = context.model;
    this.reuse = reuse;
    this.easel = easel;
    this.original = h("div.pair-original", {}, easel);
    this.result = h("div.pair-result");
    this.gallery = buildGallery(context.model, { open: (picture) => this.#open(picture), signal: context.signal });
    this.note = h("p.empty", {}, empty);
    this.pair = h("div.before-after", { hidden: true }, this.original, this.result);
    this.element = h("div.results", {}, this.note, this.pair, this.gallery.element);
  }

  /** Show an original, of which nothing has been made yet. */
  show(original) {
    this.note.hidden = true;
    this.pair.hidden = false;
    if (!this.easel) fill(this.original, original && figure("Original", original.url, original.name, this.#kind()));
  }

  /** Show what is to be shown on the left, and so many empty places. */
  begin(original, count, seed) {
    this.show(original);
    fill(this.result, this.#frame("Result", null, ""));
    this.gallery.begin(count, seed);
    this.gallery.element.hidden = count === 1;
  }

  /** A gallery for `makeImages`, whose latest image also stands on the right. */
  get sink() {
    const { gallery } = this;
    return {
      progress: gallery.progress,
      preview: (index, base64) => {
        gallery.preview(index, base64);
        if (index === 0) this.#glimpse(gallery.element.children[0].querySelector("img").src);
      },
      finish: (index, picture) => {
        gallery.finish(index, picture);
        gallery.element.children[index].querySelector(".tile-seed").textContent = seedOf(picture);
        if (index === 0) this.#open(picture);
      },
    };
  }

  #glimpse(url) {
    const image = this.result.querySelector("img");
    if (image) image.src = url;
    else fill(this.result, this.#frame("Result", url, "What the image is becoming"));
  }

  #open(picture) {
    this.gallery.select(picture);
    const actions = h(
      "div.row",
      {},
      h("button", { type: "button", onclick: () => saveBlob(picture.blob, fileName(picture)) }, "Download"),
      this.reuse ? h("button", { type: "button", onclick: () => this.reuse(picture) }, "Go on from this") : null,
    );
    fill(this.result, this.#frame(`Result, seed ${seedOf(picture)}`, picture.url, describe(picture)), actions);
  }

  #frame(title, url, words) {
    return figure(title, url, words, this.#kind());
  }

  #kind() {
    return isSharp(this.model) ? "sharp" : "";
  }
}

/** The seed by which a picture differs from those beside it. */
function seedOf({ request, seed }) {
  return request.variation_seed ?? seed;
}

/** A titled image, or an empty frame where there is none yet. */
export function figure(title, url, words, kind = "") {
  return h(
    "figure.framed",
    {},
    h("figcaption", {}, title),
    url ? h("img", { src: url, alt: words, class: kind }) : h("div.frame-waiting", { "aria-hidden": "true" }),
  );
}
