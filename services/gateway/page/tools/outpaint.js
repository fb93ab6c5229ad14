/** Outpainting: the image is kept, what surrounds it is made. */

import { fill, h } from "../components/dom.js";
import { register } from "../registry.js";
import { base64Of } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { BeforeAfter } from "./before_after.js";
import { makeImages } from "./images.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { splitView } from "./split_view.js";

const SIDES = ["left", "top", "right", "bottom"];

register({
  id: "outpaint",
  title: "Outpaint",
  order: 25,
  takesPicture: true,
  appliesTo: (model) => "outpaint" in model.operations,
  mount(element, context) {
    const { model } = context;
    const plan = h("div.plan", {});
    const draw = () => fill(plan, planOf(model, form.asked(), picture.chosen));
    const picture = new PictureInput("Image", context, draw);
    const form = operationForm(startingWithAFrame(context), "outpaint", { onchange: draw });
    const results = new BeforeAfter(context, {
      empty: "Choose an image and how much is to be added on each side.",
      reuse: (made) => picture.set(made),
    });
    const action = new Action("Outpaint", context, async (run) => {
      if (!picture.chosen) return picture.complain("Choose an image first.");
      const values = { seed: drawSeed(), ...form.values() };
      const image = await base64Of(picture.chosen.blob);
      results.begin(picture.chosen, values.n ?? 1, values.seed);
      context.remember(form.values());
      const body = { model: model.id, operation: "outpaint", image, ...values };
      await makeImages(context, "outpaint", "/v1/edit", body, run, results.sink);
      return "Done";
    }, form);
    element.append(splitView([picture.element, plan, form.element], action, results.element));
    draw();
    picture.begin();
  },
});

/** A quarter of the image on both sides, unless the address says otherwise. */
function startingWithAFrame(context) {
  if (SIDES.some((side) => side in context.parameters)) return context;
  const side = Math.max(1, Math.round(context.model.resolution[1] / 8));
  return { ...context, parameters: { left: side, right: side, top: side, bottom: side, ...context.parameters } };
}

/** Where the image will lie in the answer, drawn to scale. */
function planOf({ resolution: [height, width] }, asked, chosen) {
  const [left, top, right, bottom] = SIDES.map((side) => asked[side] ?? 0);
  const grows = asked.canvas === "grow";
  const whole = grows ? [width + left + right, height + top + bottom] : [width, height];
  const inner = [whole[0] - left - right, whole[1] - top - bottom];
  if (inner.some((side) => side < 1)) {
    return h("p.field-error", {}, `The margins leave no room for the image: the answer has ${whole[0]} × ${whole[1]} pixels.`);
  }
  const kept = h(
    "div.plan-kept",
    {},
    chosen ? h("img", { src: chosen.url, alt: "", class: "sharp" }) : h("span", {}, "kept"),
  );
  const percent = (value, of) => `${(100 * value) / of}%`;
  Object.assign(kept.style, {
    left: percent(left, whole[0]),
    top: percent(top, whole[1]),
    width: percent(inner[0], whole[0]),
    height: percent(inner[1], whole[1]),
  });
  const frame = h("div.plan-frame", { "aria-hidden": "true" }, kept);
  frame.style.setProperty("--shape", `${whole[0]} / ${whole[1]}`);
  frame.style.setProperty("--wide", String(whole[0] / whole[1]));
  const text = `The answer has ${whole[0]} × ${whole[1]} pixels; the image is kept in ${inner[0]} × ${inner[1]} of them.`;
  return [frame, h("p.hint", {}, text)];
}
