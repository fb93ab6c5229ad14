/** Style mixing: a table of images, each of which takes its rows' coarse and its columns' fine traits. */

import { json } from "../api.js";
import { fill, h, uniqueId } from "../components/dom.js";
import { describe, isSharp } from "../gallery.js";
import { register } from "../registry.js";
import { pictureOf } from "../visit.js";
import { Action } from "./action.js";
import { operationForm } from "./parameters.js";
import { splitView } from "./split_view.js";

const MOST = 8;
/** Calls at once: enough to fill a batch, few enough to leave room for others. */
const TOGETHER = 6;

register({
  id: "style_mix",
  title: "Style mix",
  order: 60,
  appliesTo: (model) => "style_mix" in model.operations,
  mount(element, context) {
    const { model, keep } = context;
    const rows = seedsField("Seeds of the rows", "1, 2, 3");
    const columns = seedsField("Seeds of the columns", "11, 12, 13");
    const form = operationForm(context, "style_mix", { without: ["seeds", "seed", "n"] });
    const result = h("div.matrix", {}, h("p.empty", {}, "Every row's image is mixed with every column's."));

    const action = new Action("Mix", context, async (run) => {
      const seeds = [rows.value(), columns.value()];
      if (seeds.some((found) => found === null)) return "";
      const [left, top] = seeds;
      const cells = new Map();
      fill(result, matrix(left, top, cells));
      const work = [...cells].map(([key, cell]) => () => fillCell(key, cell, run));
      let done = 0;
      await inParallel(work, TOGETHER, () => {
        done += 1;
        run.tell({ event: "progress", data: { index: 0, step: done, steps: work.length, eta: 0 } });
      });
      return "Done";
    }, form);

    async function fillCell(key, cell, run) {
      const pair = JSON.parse(key);
      const request = { model: model.id, operation: "style_mix", seeds: pair, ...form.values() };
      const answer = await json("/v1/edit", { body: request, signal: run.signal });
      const picture = pictureOf(answer.data[0], { model: model.id, tool: "style_mix", path: "/v1/edit", request });
      picture.seed = null;
      keep(picture);
      // The seed's own image stands below its name.
      const words = pair[0] === pair[1] ? "" : `${describe(picture)}: row ${pair[0]}, column ${pair[1]}`;
      fill(cell, h("img", { src: picture.url, alt: words, class: isSharp(model) ? "sharp" : "" }));
    }

    element.append(splitView([rows.element, columns.element, form.element], action, result));
  },
});

/** A table with the seeds' own images at its edges; `cells` is filled with its places by seeds. */
function matrix(left, top, cells) {
  const place = (pair) => {
    const cell = h("div.matrix-cell");
    cells.set(JSON.stringify(pair), cell);
    return cell;
  };
  const own = new Map([...new Set([...left, ...top])].map((seed) => [seed, null]));
  const head = (seed, scope) => {
    // A seed that stands in both edges is asked for once, and shown where it stands first.
    const first = own.get(seed) === null;
    own.set(seed, true);
    return h("th", { scope }, h("span", {}, `Seed ${seed}`), first ? place([seed, seed]) : null);
  };
  return h(
    "div.table-scroll",
    { tabindex: 0, role: "region", "aria-label": "Mixed images" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("td", {}), top.map((seed) => head(seed, "col")))),
      h(
        "tbody",
        {},
        left.map((row) =>
          h("tr", {}, head(row, "row"), top.map((column) => h("td", {}, row === column ? null : place([row, column])))),
        ),
      ),
    ),
  );
}

function seedsField(label, initial) {
  const [id, errorId] = [uniqueId("seeds"), uniqueId("seeds-error")];
  const input = h("input", { id, value: initial, inputmode: "numeric", autocomplete: "off", "aria-describedby": errorId });
  const error = h("p.field-error", { id: errorId, hidden: true });
  const element = h("div.field", {}, h("div.field-head", {}, h("label.label", { for: id }, label)), input, error);
  const value = () => {
    const found = input.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    const distinct = [...new Set(found)];
    const good = distinct.every((seed) => Number.isSafeInteger(seed) && seed >= 0);
    const problem = good && distinct.length >= 1 && distinct.length <= MOST ? "" : `Give 1 to ${MOST} whole numbers, separated by commas.`;
    error.textContent = problem;
    error.hidden = !problem;
    if (problem) input.focus();
    return problem ? null : distinct;
  };
  return { element, value };
}

async function inParallel(work, width, told) {
  const waiting = [...work];
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      await next();
      told();
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
}
