/** One picture at full size, with what made it and what can be done with it. */

import { toggleComparing } from "./compare.js";
import { showCode } from "./code.js";
import { fill, h, icon } from "./components/dom.js";
import { copyText, saveBlob } from "./components/files.js";
import { describe, fileName, isSharp } from "./gallery.js";
import { toolsFor } from "./registry.js";
import { written } from "./address.js";

/**
 * @param {import("./registry.js").Context} context
 * @param {{rerun: (picture: import("./visit.js").Picture) => void}} actions
 * @returns {{element: HTMLElement, show: (picture: import("./visit.js").Picture|null) => void}}
 */
export function buildDetails(context, { rerun }) {
  const element = h("section.details", { "aria-label": "The chosen image", hidden: true });
  return {
    element,
    show(picture) {
      element.hidden = picture === null;
      fill(element, picture && view(picture, context, rerun));
    },
  };
}

function view(picture, context, rerun) {
  const { model } = context;
  const takers = toolsFor(model).filter((tool) => tool.takesPicture);
  return [
    h("img.details-image", { src: picture.url, alt: describe(picture), class: isSharp(model) ? "sharp" : null }),
    h(
      "div.details-text",
      {},
      picture.revisedPrompt
        ? h("p.revised", {}, h("span.label", {}, "The whole prompt"), picture.revisedPrompt)
        : null,
      parameterList(picture),
      h(
        "div.row.wrap",
        {},
        action("restore", "This seed alone", () => rerun(picture)),
        action("compare", "Compare", () => toggleComparing(picture)),
        action("download", "Download", () => saveBlob(picture.blob, fileName(picture))),
        action("link", "Copy link", (event) => copyText(linkTo(picture), event.currentTarget)),
        action("code", "As code", () => showCode(picture.request, model)),
      ),
      takers.length
        ? h(
            "div.row.wrap.send",
            {},
            h("span.label", {}, "Send to"),
            takers.map((tool) => action("send", tool.title, () => context.sendTo(tool.id, picture))),
          )
        : null,
    ),
  ];
}

function parameterList({ request }) {
  const entries = Object.entries(request).filter(([name]) => name !== "model");
  return h(
    "dl.parameters",
    {},
    entries.map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value).slice(0, 120))),
    ),
  );
}

function action(symbol, text, onclick) {
  return h("button", { type: "button", onclick }, icon(symbol), text);
}

/** The address that makes this picture again. */
function linkTo({ request, tool }) {
  const { model, ...parameters } = request;
  return `${location.origin}${location.pathname}${written({ model, tool, parameters })}`;
}
