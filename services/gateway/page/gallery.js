/** Images side by side: what they are becoming, and what can be done with those that are done. */

import { fill, h, icon } from "./components/dom.js";
import { saveBlob } from "./components/files.js";
import { blobOf } from "./visit.js";
import { comparing, onComparing, toggleComparing } from "./compare.js";

/** Images that are smaller than this are shown with their pixels sharp. */
const SHARP_BELOW = 128;

/**
 * @typedef {object} Gallery
 * @property {HTMLElement} element
 * @property {(count: number, firstSeed: number) => void} begin as many empty places.
 * @property {(index: number, base64: string) => void} preview
 * @property {(index: number, share: number) => void} progress in [0, 1].
 * @property {(index: number, picture: import("./visit.js").Picture) => void} finish
 * @property {() => void} drop the places that were never filled.
 * @property {(picture: import("./visit.js").Picture|null) => void} select
 */

/**
 * @param {import("./api.js").Model} model
 * @param {{open: (picture: import("./visit.js").Picture) => void, signal: AbortSignal}} options
 * @returns {Gallery}
 */
export function buildGallery(model, { open, signal }) {
  const element = h("ul.grid", { role: "list", "aria-label": "Images" });
  const [height, width] = model.resolution;
  element.style.setProperty("--aspect", `${width} / ${height}`);
  /** @type {ReturnType<typeof buildTile>[]} */
  let tiles = [];
  element.addEventListener("keydown", (event) => walk(event, element));
  onComparing(() => tiles.forEach((tile) => tile.redraw()), signal);
  return {
    element,
    begin(count, firstSeed) {
      tiles.forEach((tile) => tile.release());
      tiles = Array.from({ length: count }, (_, index) => buildTile(firstSeed + index, isSharp(model), open));
      element.dataset.count = count === 1 ? "one" : count <= 4 ? "few" : count <= 16 ? "some" : "many";
      fill(element, tiles.map((tile) => tile.element));
    },
    preview: (index, base64) => tiles[index]?.preview(base64),
    progress: (index, share) => tiles[index]?.progress(share),
    finish: (index, picture) => tiles[index]?.finish(picture),
    drop() {
      tiles.filter((tile) => !tile.isDone()).forEach((tile) => {
        tile.release();
        tile.element.remove();
      });
    },
    select: (picture) => tiles.forEach((tile) => tile.select(picture)),
  };
}

/** Whether a model's images are so small that their pixels are shown as they are. */
export function isSharp({ resolution }) {
  return Math.max(...resolution) < SHARP_BELOW;
}

function buildTile(seed, sharp, open) {
  let picture = null;
  let glimpse = "";
  const image = h("img", { alt: "", hidden: true, class: sharp ? "sharp" : null });
  const meter = h("i.tile-meter", { hidden: true });
  const face = h(
    "button.tile-face",
    { type: "button", disabled: true, "aria-label": `Image with seed ${seed}, not done yet`, onclick: () => open(picture) },
    image,
    meter,
  );
  const caption = h("span.tile-seed", {}, String(seed));
  const compare = h("button.quiet.icon-only", { type: "button", hidden: true, onclick: () => toggleComparing(picture) }, icon("compare"));
  const download = h(
    "button.quiet.icon-only",
    { type: "button", hidden: true, "aria-label": `Download the image with seed ${seed}`, title: "Download (D)", onclick: () => saveBlob(picture.blob, fileName(picture)) },
    icon("download"),
  );
  face.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "d" && !event.ctrlKey && !event.metaKey) download.click();
  });
  const element = h("li.tile", { dataset: { state: "waiting" } }, face, h("div.tile-foot", {}, caption, compare, download));
  const release = () => {
    if (glimpse) URL.revokeObjectURL(glimpse);
    glimpse = "";
  };
  const redraw = () => {
    const chosen = picture !== null && comparing()?.id === picture.id;
    const words = chosen ? "Do not compare" : comparing() ? `Compare with seed ${comparing().seed}` : "Compare with another";
    compare.setAttribute("aria-pressed", String(chosen));
    compare.setAttribute("aria-label", `${words}: seed ${seed}`);
    compare.title = words;
  };
  return {
    element,
    release,
    redraw,
    isDone: () => picture !== null,
    preview(base64) {
      release();
      glimpse = URL.createObjectURL(blobOf(base64));
      image.src = glimpse;
      image.hidden = false;
      element.dataset.state = "becoming";
    },
    progress(share) {
      meter.hidden = false;
      meter.style.setProperty("--share", `${Math.round(100 * share)}%`);
    },
    finish(made) {
      picture = made;
      image.src = made.url;
      image.hidden = false;
      image.alt = describe(made);
      release();
      meter.hidden = true;
      face.disabled = false;
      face.setAttribute("aria-label", `${describe(made)}: details, and keep its seed`);
      compare.hidden = download.hidden = false;
      fill(caption, String(made.seed ?? ""));
      element.dataset.state = "done";
      redraw();
    },
    select(chosen) {
      const isChosen = picture !== null && chosen?.id === picture.id;
      element.classList.toggle("selected", isChosen);
      face.setAttribute("aria-pressed", String(isChosen));
    },
  };
}

/** A picture in words. */
export function describe({ seed, revisedPrompt, request, model }) {
  const what = revisedPrompt || request.prompt || request.label || `image of ${model}`;
  return seed === null ? String(what) : `${what}, seed ${seed}`;
}

/** What a picture is called as a file. */
export function fileName({ model, seed, blob }) {
  const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[blob.type] ?? "png";
  return `${model}-${seed ?? "image"}.${ending}`;
}

const MOVES = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/** Arrow keys move between images as they lie on the page. */
function walk(event, grid) {
  const move = MOVES[event.key];
  if (!move || !event.target.matches(".tile-face")) return;
  const faces = [...grid.querySelectorAll(".tile-face:not(:disabled)")];
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const next = faces[faces.indexOf(event.target) + move[0] + columns * move[1]];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
