/** What a likelihood is made of: a table with a bar for each term. */

import { h, svg } from "../components/dom.js";
import { nats } from "./numbers.js";

const MEANINGS = {
  log_prior: "Of the latent under the prior",
  log_det: "Change of volume on the way to the latent",
  reconstruction: "Of the image, given its latent",
  kl: "From the posterior to the prior; subtracted",
  elbo: "Reconstruction less KL",
  iwae: "The bound of several samples, tighter",
  entropy: "Of the posterior",
  diffusion: "Of the steps from noise to the image",
  ends: "Of both ends of that way",
};

/**
 * @param {Record<string, any>} terms in nats; those of several levels may be nested.
 * @returns {HTMLElement}
 */
export function termsTable(terms) {
  const rows = flattened(terms);
  const most = Math.max(...rows.map(([, value]) => Math.abs(value ?? 0)), 1e-12);
  const mixed = rows.some(([, value]) => value < 0) && rows.some(([, value]) => value > 0);
  return h(
    "div.table-scroll",
    { tabindex: 0, role: "region", "aria-label": "Terms of the likelihood" },
    h(
      "table.terms",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Term"), h("th.numeric", { scope: "col" }, "Nats"), h("td", { "aria-hidden": "true" }))),
      h(
        "tbody",
        {},
        rows.map(([name, value]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, name.replaceAll("_", " "), MEANINGS[name] ? h("small", {}, MEANINGS[name]) : null),
            h("td.numeric", {}, nats(value)),
            h("td.term-bar", { "aria-hidden": "true" }, bar(value ?? 0, most, mixed)),
          ),
        ),
      ),
    ),
  );
}

function flattened(terms, prefix = "") {
  return Object.entries(terms).flatMap(([name, value]) => {
    const full = prefix ? `${prefix} ${name}` : name;
    if (value !== null && typeof value === "object") return flattened(value, full);
    return typeof value === "number" || value === null ? [[full, value]] : [];
  });
}

function bar(value, most, mixed) {
  const zero = mixed ? 50 : value < 0 ? 100 : 0;
  const length = (Math.abs(value) / most) * (mixed ? 50 : 100);
  return svg(
    "svg",
    { viewBox: "0 0 100 10", preserveAspectRatio: "none" },
    svg("rect", { class: "chart-bar", x: value < 0 ? zero - length : zero, y: 1, width: Math.max(length, 0.4), height: 8 }),
    mixed ? svg("line", { class: "base", x1: 50, x2: 50, y1: 0, y2: 10 }) : null,
  );
}
