/** Variations: around the noise of a seed, or of an image. */

import { fill, h } from "../components/dom.js";
import { register } from "../registry.js";
import { base64Of } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { BeforeAfter } from "./before_after.js";
import { choice } from "./choice.js";
import { makeImages } from "./images.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { splitView } from "./split_view.js";

const WAYS = { seed: "Of a seed", image: "Of an image" };
const IMAGES = 8;
const STRENGTH = 0.3;

const ofSeeds = (model) => "variation_seed" in (model.operations.generate?.properties ?? {});
const ofImages = (model) => "variation" in model.operations;

register({
  id: "vary",
  title: "Vary",
  order: 30,
  takesPicture: true,
  appliesTo: (model) => ofSeeds(model) || ofImages(model),
  mount(element, context) {
    const { model } = context;
    const panels = {};
    if (ofSeeds(model)) panels.seed = aroundASeed(context);
    if (ofImages(model)) panels.image = aroundAnImage(context);
    const place = h("div", {});
    const show = (way) => fill(place, panels[way].element);
    const ways = Object.fromEntries(Object.keys(panels).map((name) => [name, WAYS[name]]));
    const chooser = choice("Variations", ways, show);
    if (Object.keys(panels).length > 1) element.append(h("div.tool-head", {}, chooser.element));
    element.append(place);
    show(chooser.value());
    const { picture, restored } = context;
    if (panels.image && (picture || restored?.request.image)) {
      chooser.set("image");
      panels.image.begin();
    }
  },
});

function aroundASeed(context) {
  const { model } = context;
  const start = { variation_strength: STRENGTH, n: IMAGES, seed: drawSeed(), ...context.parameters };
  const first = ["variation_strength"];
  const form = operationForm({ ...context, parameters: start }, "generate", { first });
  const results = new BeforeAfter(context, {
    empty: "The image of a seed, beside others whose first noise lies close to its own.",
  });
  const action = new Action("Vary the seed", context, async (run) => {
    const values = { seed: drawSeed(), variation_seed: drawSeed(), variation_strength: STRENGTH, n: IMAGES, ...form.values() };
    const { variation_seed, variation_strength, n, ...common } = values;
    context.remember(form.values());
    results.begin(null, n, variation_seed);
    const origin = { model: model.id, ...common };
    const [center] = await makeImages(context, "vary", "/v1/generate", origin, run);
    results.show({ ...center, name: `Seed ${center.seed}` });
    const body = { ...origin, n, variation_seed, variation_strength };
    await makeImages(context, "vary", "/v1/generate", body, run, results.sink);
    return "Done";
  }, form);
  return { element: splitView([form.element], action, results.element) };
}

function aroundAnImage(context) {
  const { model } = context;
  const picture = new PictureInput("Image", context);
  const form = operationForm({ ...context, parameters: { n: 4, ...context.parameters } }, "variation");
  const results = new BeforeAfter(context, {
    empty: "Choose an image; the strength says how far its variations may go from it.",
    reuse: (made) => picture.set(made),
  });
  const action = new Action("Vary the image", context, async (run) => {
    if (!picture.chosen) return picture.complain("Choose an image first.");
    const values = { seed: drawSeed(), ...form.values() };
    const image = await base64Of(picture.chosen.blob);
    results.begin(picture.chosen, values.n ?? 1, values.seed);
    context.remember(form.values());
    const body = { model: model.id, operation: "variation", image, ...values };
    await makeImages(context, "vary", "/v1/edit", body, run, results.sink);
    return "Done";
  }, form);
  return {
    element: splitView([picture.element, form.element], action, results.element),
    begin: () => picture.begin(),
  };
}
