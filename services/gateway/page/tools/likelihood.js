/** How probable an image is under a model, what that is made of, and how it compares. */

import { json } from "../api.js";
import { fill, h } from "../components/dom.js";
import { register } from "../registry.js";
import { base64Of } from "../visit.js";
import { Action } from "./action.js";
import { nats } from "./numbers.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { referenceChart } from "./reference_chart.js";
import { splitView } from "./split_view.js";
import { termsTable } from "./terms.js";

const KINDS = {
  exact: "Exact: the density that the model gives the image.",
  lower_bound: "A lower bound: the model's own log-likelihood is at least this.",
  estimate: "An estimate: it may lie on either side of the model's own log-likelihood.",
};

register({
  id: "likelihood",
  title: "Likelihood",
  order: 80,
  takesPicture: true,
  appliesTo: (model) => model.tasks.includes("likelihood"),
  mount(element, context) {
    const { model } = context;
    const picture = new PictureInput("Image", context);
    const form = operationForm(context, "likelihood");
    const measured = [];
    const result = h("div.likelihood", {}, h("p.empty", {}, "The likelihood of an image is shown here."));
    const reference = referenceOf(model, context.signal);

    const action = new Action("Measure", context, async (run) => {
      if (!picture.chosen) return picture.complain("Choose an image first.");
      const { blob, url, name } = picture.chosen;
      const parameters = form.values();
      const body = { model: model.id, image: await base64Of(blob), ...parameters };
      const answer = await json("/v1/likelihood", { body, signal: run.signal, requestId: run.requestId });
      const found = { ...answer.data[0], url, name, asked: form.asked() };
      measured.unshift(found);
      fill(result, verdict(found), reached(await reference, found), terms(found), earlier(measured, found));
      context.remember(parameters);
      return `${nats(found.log_likelihood)} nats, ${bits(found)} bits per dimension`;
    }, form);

    element.append(splitView([picture.element, form.element], action, result));
    picture.begin();
  },
});

async function referenceOf(model, signal) {
  if (!model.reference) return null;
  try {
    return await json(`/v1/models/${encodeURIComponent(model.id)}/reference`, { signal });
  } catch {
    return null; // the number itself is still worth showing
  }
}

function verdict(found) {
  return h(
    "section.verdict",
    {},
    h("img.sharp.verdict-image", { src: found.url, alt: found.name }),
    h(
      "div",
      {},
      h("dl.figures", {}, fact("Bits per dimension", bits(found)), fact("Log-likelihood", `${nats(found.log_likelihood)} nats`), error(found)),
      h("p", {}, KINDS[found.kind] ?? found.kind),
      judgement(found),
      corrected(found),
    ),
  );
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function error({ std_error: deviation }) {
  if (deviation === null || deviation === undefined) return null;
  return fact("Standard error", deviation === 0 ? "none" : `± ${nats(deviation)} nats`);
}

function bits({ bits_per_dim: value }) {
  return value === null ? "infinite" : value.toFixed(3);
}

function judgement({ percentile, anomalous }) {
  if (percentile === null || percentile === undefined) return null;
  const [kind, text] = anomalous
    ? ["bad", "Less probable than 99 % of the images that the model has not seen."]
    : ["good", "Not unusual among the images that the model has not seen."];
  const place = percentile < 0.05 ? "below all" : percentile > 99.95 ? "above all" : `at percentile ${percentile.toFixed(1)}`;
  return h("p.judgement", {}, h(`span.badge.${kind}`, {}, anomalous ? "Anomalous" : "Typical"), ` ${text} It stands ${place}.`);
}

/** The same without what a simple image is worth to any model. */
function corrected({ corrected_bits_per_dim: score, corrected_percentile: percentile, corrected_anomalous: anomalous }) {
  if (score === null || score === undefined) return null;
  const text = `Corrected for complexity: ${score >= 0 ? "+" : "−"}${Math.abs(score).toFixed(3)} bits per dimension beside a lossless compressor`;
  if (percentile === null || percentile === undefined) return h("p.hint", {}, `${text}.`);
  return h("p.hint", {}, `${text}, at percentile ${percentile.toFixed(1)}: ${anomalous ? "anomalous" : "typical"}.`);
}

function reached(reference, found) {
  const title = h("h2", {}, "Among images that the model has not seen");
  if (!reference) return h("section", {}, title, h("p.hint", {}, "This model has no reference set to compare with."));
  return h("section", {}, title, referenceChart(reference, found));
}

function terms({ terms: parts }) {
  if (!parts || !Object.keys(parts).length) return null;
  return h("section", {}, h("h2", {}, "What it is made of"), termsTable(parts));
}

/** The images that were measured before, most probable first. */
function earlier(measured, current) {
  if (measured.length < 2) return null;
  const sorted = [...measured].sort((a, b) => b.log_likelihood - a.log_likelihood);
  const rows = sorted.map((one) =>
    h(
      "tr",
      { "aria-current": one === current ? "true" : null },
      h("th", { scope: "row" }, h("img.sharp.small", { src: one.url, alt: "" }), one.name),
      h("td.numeric", {}, bits(one)),
      h("td.numeric", {}, nats(one.log_likelihood)),
      h("td.numeric", {}, one.percentile == null ? "–" : one.percentile.toFixed(1)),
    ),
  );
  const heads = ["Image", "Bits/dim", "Nats", "Percentile"].map((name, place) =>
    h("th", { scope: "col", class: place ? "numeric" : "" }, name),
  );
  return h(
    "section",
    {},
    h("h2", {}, "Measured here, most probable first"),
    h("div.table-scroll", { tabindex: 0, role: "region", "aria-label": "Measured images" }, h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows))),
  );
}
