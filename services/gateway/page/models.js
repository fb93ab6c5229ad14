/** Choosing a model: a list by family with a search, and what each model is. */

import { sampleSheet } from "./api.js";
import { fill, h, icon } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";
import { modelAbout } from "./about.js";

/** How families are called. */
const FAMILIES = {
  diffusion: "Diffusion",
  flow: "Normalizing flow",
  gan: "GAN",
  stylegan: "Style-based GAN",
  vae: "Variational autoencoder",
  autoregressive: "Autoregressive",
  super_resolution: "Super-resolution",
  translation: "Image-to-image translation",
  density: "Density",
};

/** The name of a family for people. */
export function familyName(family) {
  return FAMILIES[family] ?? family.replaceAll("_", " ");
}

/** @type {Map<string, Promise<string|null>>} */
const sheets = new Map();

/** An object URL of a model's sample sheet, or null where it has none. */
export function sheetUrl(id) {
  if (!sheets.has(id)) {
    sheets.set(id, sampleSheet(id).then((blob) => URL.createObjectURL(blob), () => null));
  }
  return sheets.get(id);
}

/**
 * A small picture of what a model makes, loaded when it comes into view.
 *
 * @param {import("./api.js").Model} model
 * @returns {HTMLElement}
 */
export function thumbnail(model) {
  const box = h("span.thumb", { "aria-hidden": "true" }, model.id[0]);
  const observer = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    const url = await sheetUrl(model.id);
    if (url) fill(box, h("img", { src: url, alt: "" }));
  });
  observer.observe(box);
  return box;
}

/** Height and width for people: `32 × 32`. */
export function resolutionText({ resolution: [height, width] }) {
  return `${width} × ${height}`;
}

/** Show which model is chosen. */
export function showModelOn(button, model) {
  fill(
    button,
    thumbnail(model),
    h(
      "span.model-button-text",
      {},
      h("strong", {}, model.id),
      h("small", {}, `${familyName(model.family)} · ${resolutionText(model)}`),
    ),
    h("span.unseen", {}, "Choose another model"),
    icon("chevron"),
  );
}

/**
 * Let the person choose.
 *
 * @param {import("./api.js").Model[]} models
 * @param {string|undefined} current
 * @returns {Promise<string|undefined>} the id, or nothing where they turned away.
 */
export function chooseModel(models, current) {
  return openDialog("Choose a model", (close) => chooser(models, current, close), { wide: true });
}

function chooser(models, current, close) {
  const about = h("div.chooser-about", { "aria-live": "off" });
  const list = h("div.chooser-list", { role: "group", "aria-label": "Models" });
  let shown = "";
  const preview = (model) => {
    if (shown === model.id) return;
    shown = model.id;
    fill(about, modelAbout(model));
  };
  const search = h("input", {
    type: "search",
    placeholder: "Search by name, family, task …",
    "aria-label": "Search models",
    autofocus: true,
    oninput: () => draw(),
    onkeydown: (event) => {
      if (event.key === "ArrowDown") focusAt(event, 0);
      if (event.key === "Enter" && list.querySelector("button")) list.querySelector("button").click();
    },
  });
  const focusAt = (event, index) => {
    const items = [...list.querySelectorAll("button")];
    event.preventDefault();
    (items[index] ?? (index < 0 ? search : items.at(-1)))?.focus();
  };
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    focusAt(event, [...list.querySelectorAll("button")].indexOf(document.activeElement) + step);
  });
  const draw = () => {
    const found = models.filter((model) => matches(model, search.value));
    const families = [...new Set(found.map(({ family }) => family))].sort();
    fill(
      list,
      families.map((family) => [
        h("h3", {}, familyName(family)),
        found.filter((model) => model.family === family).map((model) => item(model, model.id === current, close, preview)),
      ]),
      found.length ? null : h("p.hint", {}, "No model matches. Fewer words find more."),
    );
    if (found.length) preview(found.find(({ id }) => id === current) ?? found[0]);
  };
  draw();
  return h(
    "div.chooser",
    {},
    h("div.chooser-side", {}, h("div.search", {}, icon("search"), search), list),
    about,
  );
}

function item(model, isCurrent, close, preview) {
  return h(
    "button.chooser-item",
    {
      type: "button",
      "aria-current": isCurrent ? "true" : null,
      onclick: () => close(model.id),
      onfocus: () => preview(model),
      onpointerenter: () => preview(model),
    },
    thumbnail(model),
    h(
      "span.chooser-text",
      {},
      h("strong", {}, model.id),
      h("small", {}, `${resolutionText(model)} · ${model.tasks.join(", ")}`),
    ),
    isCurrent ? icon("check") : null,
  );
}

function matches(model, query) {
  const text = [
    model.id, model.family, familyName(model.family), model.description,
    ...model.tasks, ...Object.keys(model.operations), ...model.conditioning,
  ].join(" ").toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
