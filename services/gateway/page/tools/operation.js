/** Every operation that has no tool of its own: a form from its schema, and the images it takes. */

import { fill, h, uniqueId } from "../components/dom.js";
import { register } from "../registry.js";
import { titleOf } from "../schema.js";
import { base64Of } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { BeforeAfter } from "./before_after.js";
import { makeImages } from "./images.js";
import { Painter } from "./painter.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { splitView } from "./split_view.js";

const HAVE_A_TOOL = new Set(["generate", "likelihood", "encode", "inpaint", "outpaint", "variation", "interpolate", "style_mix"]);
/** Fields for pictures that the page shows, however many more the operation takes. */
const MOST_PICTURES = 2;

const WORDS = {
  reconstruct: "Encodes the image and decodes it again: what is lost, the model cannot say.",
  invert: "Carries the image to noise and back under another prompt.",
  attribute: "Moves an image along attributes that the model learned: one of a seed, or yours.",
  denoise: "Takes the noise out of the image.",
  super_resolution: "Makes the image larger, with detail that the model supplies.",
  traverse: "Moves one number of the latent, or one code, and keeps the rest.",
  translate: "Turns the image into one of another kind.",
};

const BY_DESCENT = "Looks for the latents whose image comes closest to yours, step by step.";

function wordsOf(operation, model) {
  return operation === "invert" && model.family === "stylegan" ? BY_DESCENT : WORDS[operation];
}

/** @returns {string[]} */
function others(model) {
  return Object.keys(model.operations).filter((name) => !HAVE_A_TOOL.has(name));
}

register({
  id: "edit",
  title: "More edits",
  order: 70,
  takesPicture: true,
  appliesTo: (model) => others(model).length > 0,
  mount(element, context) {
    const { model, parameters } = context;
    const names = others(model);
    const panel = h("div", {});
    let mounted = new AbortController();
    const open = (operation, given) => {
      mounted.abort();
      mounted = new AbortController();
      context.signal.addEventListener("abort", () => mounted.abort(), { signal: mounted.signal });
      fill(panel, operationView({ ...context, signal: mounted.signal, ...given }, operation));
    };
    const id = uniqueId("operation");
    const select = h(
      "select",
      { id, onchange: () => open(select.value, { picture: null, restored: null }) },
      names.map((name) => h("option", { value: name }, titleOf(name))),
    );
    select.value = names.includes(parameters.operation) ? parameters.operation : names[0];
    element.append(h("div.tool-head", {}, h("label", { for: id }, "Edit"), select), panel);
    open(select.value, {});
  },
});

function operationView(context, operation) {
  const { model } = context;
  const schema = model.operations[operation];
  const [fewest, most] = schema["x-images"] ?? [1, 1];
  const labels = most > 1 && fewest > 1 ? ["First image", "Second image"] : ["Image"];
  const pictures = labels.slice(0, Math.min(most, MOST_PICTURES)).map((label) => new PictureInput(label, context, (chosen) => taken(chosen)));
  const [height, width] = model.resolution;
  const takes = model.limits.takes ? `It takes ${model.limits.takes}.` : "";
  const taken = async (chosen) => {
    await painter?.show(chosen.blob);
    if (painter) results.show(chosen);
  };
  const painter = schema["x-mask"] ? new Painter(width, height) : null;
  const form = operationForm(context, operation);
  const results = new BeforeAfter(context, {
    empty: `${wordsOf(operation, model) ?? schema.description?.split("\n")[0] ?? ""} ${takes}`.trim(),
    easel: painter?.element,
    reuse: (made) => pictures[0]?.set(made),
  });
  const action = new Action(titleOf(operation), context, async (run) => {
    const missing = pictures.slice(0, fewest).find(({ chosen }) => !chosen);
    if (missing) return missing.complain("Choose an image first.");
    if (painter && !painter.mask.count) return painter.complain("Paint over what is to be made anew.");
    const takesSeed = "seed" in (schema.properties ?? {});
    const values = { ...(takesSeed ? { seed: drawSeed() } : {}), ...form.values() };
    const chosen = pictures.map((picture) => picture.chosen).filter(Boolean);
    const images = await Promise.all(chosen.map(({ blob }) => base64Of(blob)));
    const mask = painter ? { mask: await base64Of(await painter.blob()) } : {};
    results.begin(chosen[0] ?? null, form.asked().n ?? 1, values.seed ?? 0);
    context.remember({ operation, ...form.values() });
    const body = { model: model.id, operation, ...(images.length ? { images } : {}), ...mask, ...values };
    await makeImages(context, "edit", "/v1/edit", body, run, results.sink);
    return "Done";
  }, form);
  pictures[0]?.begin();
  return splitView([...pictures.map((picture) => picture.element), form.element], action, results.element);
}
