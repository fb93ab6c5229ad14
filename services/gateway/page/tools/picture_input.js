/** A field for an image: a file, a drop, a paste, one that this visit made, or a fresh one. */

import { json } from "../api.js";
import { announce } from "../components/announce.js";
import { openDialog } from "../components/dialog.js";
import { h, icon, uniqueId } from "../components/dom.js";
import { sentence } from "../components/errors.js";
import { blobOf, pictureOf } from "../visit.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];

/** @typedef {{blob: Blob, url: string, name: string}} Chosen */

export class PictureInput {
  /**
   * @param {string} label
   * @param {import("../registry.js").Context} context
   * @param {(chosen: Chosen) => void} onchange
   */
  constructor(label, context, onchange = () => {}) {
    /** @type {Chosen|null} */
    this.chosen = null;
    this.context = context;
    this.onchange = onchange;
    this.#build(label);
    document.addEventListener("paste", (event) => this.#paste(event), { signal: context.signal });
  }

  /** @param {{blob: Blob, url: string, name?: string, seed?: number|null, model?: string}} picture */
  set(picture) {
    const name = picture.name ?? (picture.seed == null ? picture.model : `${picture.model}, seed ${picture.seed}`);
    this.chosen = { blob: picture.blob, url: picture.url, name: name ?? "an image" };
    this.preview.src = picture.url;
    this.preview.alt = this.chosen.name;
    this.box.classList.add("filled");
    this.#complain("");
    this.onchange(this.chosen);
  }

  /** Begin with what was sent here, or with what a picture that is brought back was made from. */
  begin() {
    const { picture, restored } = this.context;
    const image = restored?.request.image ?? restored?.request.images?.[0];
    if (picture) this.set(picture);
    else if (image) {
      const blob = blobOf(image);
      this.set({ blob, url: URL.createObjectURL(blob), name: "the original" });
    }
  }

  /** Say what is wrong with it, such as that there is none. */
  complain(message) {
    this.#complain(message);
    this.fileButton.focus();
    return "";
  }

  #build(label) {
    const [labelId, errorId] = [uniqueId("picture"), uniqueId("picture-error")];
    this.preview = h("img.sharp", { alt: "" });
    this.file = h("input", {
      type: "file",
      accept: TYPES.join(),
      hidden: true,
      "aria-label": label,
      onchange: () => this.#take(this.file.files[0]),
    });
    this.fileButton = h("button", { type: "button", onclick: () => this.file.click() }, "Choose a file");
    this.error = h("p.field-error", { id: errorId, hidden: true, role: "alert" });
    this.box = h(
      "div.picture-box",
      {
        ondragover: (event) => this.#drag(event, true),
        ondragleave: (event) => this.#drag(event, false),
        ondrop: (event) => {
          this.#drag(event, false);
          this.#take(event.dataTransfer.files[0]);
        },
      },
      h("div.picture-empty", { "aria-hidden": "true" }, icon("image"), h("span", {}, "Drop or paste an image here")),
      this.preview,
    );
    this.element = h(
      "div.picture-input",
      { role: "group", "aria-labelledby": labelId, "aria-describedby": errorId },
      h("span.field-label", { id: labelId }, label),
      this.box,
      h(
        "div.row",
        {},
        this.fileButton,
        this.file,
        h("button", { type: "button", onclick: () => this.#fromVisit() }, "From this visit"),
        this.context.model.operations.generate
          ? h("button", { type: "button", onclick: (event) => this.#make(event.currentTarget) }, "Make one")
          : null,
      ),
      this.error,
    );
  }

  #take(file) {
    if (!file) return;
    this.file.value = "";
    const most = this.context.model.limits?.max_image_bytes ?? Infinity;
    if (!TYPES.includes(file.type)) {
      this.#complain(`${file.name || "This"} is no PNG, JPEG or WebP.`);
      return;
    }
    if (file.size > most) {
      this.#complain(`${file.name} has ${mebibytes(file.size)}; at most ${mebibytes(most)} are taken.`);
      return;
    }
    this.set({ blob: file, url: URL.createObjectURL(file), name: file.name || "a pasted image" });
  }

  #paste(event) {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    const typing = event.target.closest?.("input, textarea");
    const others = [...document.querySelectorAll(".picture-box:not(.filled)")];
    // Of several fields the first empty one takes it, or the one that has the focus.
    const mine = this.element.contains(document.activeElement) || (others[0] ?? this.box) === this.box;
    if (!file || typing || !mine || event.defaultPrevented) return;
    event.preventDefault();
    this.#take(file);
  }

  #drag(event, over) {
    event.preventDefault();
    this.box.classList.toggle("over", over);
  }

  async #fromVisit() {
    const { pictures } = this.context;
    const picture = await openDialog("From this visit", (close) =>
      pictures.length
        ? h(
            "div.picture-choice",
            {},
            pictures.map((one) => {
              const name = one.seed == null ? one.model : `${one.model}, seed ${one.seed}`;
              return h(
                "button.picture-choice-one",
                { type: "button", title: name, onclick: () => close(one) },
                h("img.sharp", { src: one.url, alt: name }),
              );
            }),
          )
        : h("p.empty", {}, "Nothing has been made in this visit yet. Choose a file, or let the model make one."),
    );
    if (picture) this.set(picture);
  }

  async #make(button) {
    const { model, keep, signal } = this.context;
    button.disabled = true;
    announce("Making an image");
    try {
      const body = { model: model.id, seed: Math.floor(Math.random() * 2 ** 31) };
      const answer = await json("/v1/generate", { body, signal });
      const origin = { model: model.id, tool: "generate", path: "/v1/generate", request: body };
      const picture = pictureOf(answer.data[0], origin);
      keep(picture);
      this.set(picture);
    } catch (error) {
      if (!signal.aborted) this.#complain(sentence(error.message));
    } finally {
      button.disabled = false;
    }
  }

  #complain(message) {
    this.error.textContent = message;
    this.error.hidden = !message;
  }
}

function mebibytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
