/** Inpainting: what a painted mask marks is made anew. */

import { register } from "../registry.js";
import { base64Of } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { BeforeAfter } from "./before_after.js";
import { makeImages } from "./images.js";
import { Painter } from "./painter.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { splitView } from "./split_view.js";

register({
  id: "inpaint",
  title: "Inpaint",
  order: 20,
  takesPicture: true,
  appliesTo: (model) => "inpaint" in model.operations,
  mount(element, context) {
    const { model } = context;
    const [height, width] = model.resolution;
    const painter = new Painter(width, height);
    const picture = new PictureInput("Image", context, async ({ blob }) => {
      await painter.show(blob);
      results.show(picture.chosen);
    });
    const form = operationForm(context, "inpaint");
    const results = new BeforeAfter(context, {
      empty: "Choose an image, paint over a part of it, and say what is to be there.",
      reuse: (made) => picture.set(made),
      easel: painter.element,
    });
    const action = new Action("Inpaint", context, async (run) => {
      if (!picture.chosen) return picture.complain("Choose an image first.");
      if (!painter.mask.count) return painter.complain("Paint over what is to be made anew.");
      const values = { seed: drawSeed(), ...form.values() };
      const [image, mask] = await Promise.all([picture.chosen.blob, await painter.blob()].map(base64Of));
      results.begin(picture.chosen, values.n ?? 1, values.seed);
      context.remember(form.values());
      const body = { model: model.id, operation: "inpaint", image, mask, ...values };
      await makeImages(context, "inpaint", "/v1/edit", body, run, results.sink);
      return "Done";
    }, form);
    element.append(splitView([picture.element, form.element], action, results.element));
    picture.begin();
  },
});
