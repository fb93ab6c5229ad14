/** The way from one image to another through the model's latent space. */

import { json } from "../api.js";
import { h } from "../components/dom.js";
import { register } from "../registry.js";
import { base64Of } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { choice } from "./choice.js";
import { makeImages } from "./images.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { Scrubber } from "./scrubber.js";
import { seedField } from "./seed_field.js";
import { splitView } from "./split_view.js";
import { encodesLatents } from "./tensors.js";

register({
  id: "interpolate",
  title: "Interpolate",
  order: 40,
  appliesTo: (model) => "interpolate" in model.operations,
  mount(element, context) {
    const { model, parameters } = context;
    const [firstSeed, secondSeed] = Array.isArray(parameters.seeds) ? parameters.seeds : [drawSeed(), drawSeed()];
    const seeds = [seedField("First seed", firstSeed), seedField("Second seed", secondSeed)];
    const pictures = ["First image", "Second image"].map((label) => new PictureInput(label, context));
    const bySeeds = h("div.two", {}, seeds.map((field) => field.element));
    const byImages = h("div.two", { hidden: true }, pictures.map((field) => field.element));
    const encodes = encodesLatents(model);
    const ends = choice("Between", { seeds: "Two seeds", ...(encodes ? { images: "Two images" } : {}) }, (way) => {
      bySeeds.hidden = way !== "seeds";
      byImages.hidden = way !== "images";
    });
    const form = operationForm(context, "interpolate", { without: ["seeds", ...(usesSeed(model) ? [] : ["seed"])] });
    const scrubber = new Scrubber(context);
    const note = h("p.empty", {}, "The way between the two appears here, frame by frame.");

    const action = new Action("Interpolate", context, async (run) => {
      const missing = ends.value() === "images" && pictures.find(({ chosen }) => !chosen);
      if (missing) return missing.complain("Choose an image first.");
      const values = { seed: drawSeed(), ...form.values() };
      const between =
        ends.value() === "seeds"
          ? { seeds: seeds.map((field) => field.value()) }
          : { latents: await latentsOf(model, pictures, run) };
      context.remember({ ...form.values(), seeds: between.seeds });
      note.hidden = true;
      scrubber.begin(form.asked().n);
      const body = { model: model.id, operation: "interpolate", ...values, ...between };
      // A series is no choice of anybody's: only the frames that the person keeps are.
      await makeImages({ ...context, keep: () => {} }, "interpolate", "/v1/edit", body, run, {
        finish: (index, picture) => scrubber.set(index, picture),
      });
      return "Done";
    }, form);
    const fields = [encodes ? ends.element : null, bySeeds, byImages, form.element].filter(Boolean);
    element.append(splitView(fields, action, note, scrubber.element));
  },
});

/** Whether a seed decides more than the two ends: fresh noise of a sampler, a label left open. */
function usesSeed(model) {
  const { properties } = model.operations.interpolate;
  return "sampler" in properties || "category" in properties || model.labels.length > 0;
}

/** Where two images lie in the latent space. */
async function latentsOf(model, pictures, run) {
  const images = await Promise.all(pictures.map(({ chosen }) => base64Of(chosen.blob)));
  const { signal, requestId } = run;
  const answer = await json("/v1/encode", { body: { model: model.id, images }, signal, requestId });
  return answer.data.map(({ latents }) => latents);
}
