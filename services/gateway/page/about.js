/** What a model is: its facts, its sample sheet and its card. */

import { modelCard } from "./api.js";
import { fill, h } from "./components/dom.js";
import { openDialog } from "./components/dialog.js";
import { markdown } from "./components/markdown.js";
import { familyName, resolutionText, sheetUrl } from "./models.js";

const LIKELIHOODS = { exact: "exact", lower_bound: "lower bound", estimate: "estimate", none: "none" };

/** Open a dialog about a model. */
export function showAbout(model) {
  return openDialog(model.id, () => modelAbout(model, { titled: false }), { wide: true });
}

/**
 * @param {import("./api.js").Model} model
 * @param {{titled?: boolean}} [options]
 * @returns {HTMLElement}
 */
export function modelAbout(model, { titled = true } = {}) {
  const sheet = h("figure.sheet", {});
  const card = h("div.card-text", {}, h("p.hint", {}, "Loading the card …"));
  sheetUrl(model.id).then((url) => {
    if (url) fill(sheet, h("img", { src: url, alt: `Samples of ${model.id}` }));
    else sheet.remove();
  });
  modelCard(model.id).then(
    (text) => fill(card, markdown(withoutTitle(text))),
    (error) => fill(card, h("p.hint", {}, error.status === 404 ? "This model has no card." : error.message)),
  );
  return h(
    "article.about",
    {},
    titled ? h("h3", {}, model.id) : null,
    h("p", {}, model.description),
    facts(model),
    sheet,
    card,
  );
}

function facts(model) {
  const rows = [
    ["Family", familyName(model.family)],
    ["Resolution", `${resolutionText(model)}, ${model.channels === 1 ? "grey" : "colour"}`],
    ["Takes", model.conditioning.filter((kind) => kind !== "none").join(", ") || "nothing but a seed"],
    ["Can", Object.keys(model.operations).map((name) => name.replaceAll("_", " ")).join(", ")],
    ["Likelihood", LIKELIHOODS[model.likelihood] ?? model.likelihood],
    ["Licence", model.card?.license],
  ];
  return h(
    "dl.facts",
    {},
    rows.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A card without its front matter, its own title and the picture of the sheet, shown above it. */
function withoutTitle(text) {
  return text
    .replace(/^---\r?\n[\s\S]*?\r?\n---\r?\n/, "")
    .replace(/^\s*# .*\r?\n/, "")
    .replace(/!\[samples\]\([^)]*\)\r?\n?/, "");
}
