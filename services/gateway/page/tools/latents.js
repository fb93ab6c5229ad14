/** Walking through a model's latent space by hand. */

import { json } from "../api.js";
import { fill, h } from "../components/dom.js";
import { errorBox } from "../components/errors.js";
import { isSharp } from "../gallery.js";
import { register } from "../registry.js";
import { base64Of, pictureOf } from "../visit.js";
import { drawSeed } from "../widgets.js";
import { Action } from "./action.js";
import { figure } from "./before_after.js";
import { choice } from "./choice.js";
import { latest } from "./latest.js";
import { operationForm } from "./parameters.js";
import { PictureInput } from "./picture_input.js";
import { Scrubber } from "./scrubber.js";
import { seedField } from "./seed_field.js";
import { REACH, Sliders } from "./sliders.js";
import { splitView } from "./split_view.js";
import { changed, decoded, drawn, encoded, encodesLatents } from "./tensors.js";

/** Milliseconds after the last move of a slider. */
const WAIT = 120;
/** Frames of a strip, evenly from one end of the reach to the other. */
const FRAMES = 9;
/** What decides the latent is the tool's own matter. */
const OURS = ["n", "seed", "temperature", "truncation", "variation_seed", "variation_strength"];

const shapeOf = (model) => model.limits.latent_shape ?? null;

register({
  id: "latents",
  title: "Latents",
  order: 50,
  takesPicture: true,
  appliesTo: (model) =>
    "latents" in (model.operations.generate?.properties ?? {}) && (encodesLatents(model) || shapeOf(model) !== null),
  mount(element, context) {
    const { model, signal } = context;
    const kind = isSharp(model) ? "sharp" : "";
    const seed = seedField("Seed", drawSeed());
    const picture = new PictureInput("Image", context);
    const ways = { ...(shapeOf(model) ? { seed: "A draw" } : {}), ...(encodesLatents(model) ? { image: "An image" } : {}) };
    const start = choice("Start from", ways, showWay);
    const hint = h("p.hint", {}, "Drawn by this page from a standard normal; the service draws other latents from the same seed.");
    const form = operationForm(context, "generate", { without: OURS, onchange: () => sliders.start && redraw() });
    const [note, now, before] = [h("p.empty", {}, "Begin with a latent, then move its dimensions one by one."), h("div"), h("div")];
    const pair = h("div.latents-images", {}, before, now);
    const trouble = h("div", {});
    const strip = new Scrubber(context);
    const stripTitle = h("h2", { hidden: true });
    const options = { wait: WAIT, signal, fail: (error) => fill(trouble, errorBox(error)) };
    const redraw = latest(draw, options);
    let chosenPlace = 0;
    const redrawStrip = latest(drawStrip, { ...options, wait: 0 });
    const sliders = new Sliders({
      onchange: redraw,
      onchoose: (place) => {
        chosenPlace = place;
        redrawStrip();
      },
    });
    /** What the service's own seed still decides, such as a label that was left open. */
    let fixedSeed = 0;
    /** @type {import("../visit.js").Picture|null} */
    let shown = null;

    const action = new Action("Begin", context, async (run) => {
      const byImage = start.value() === "image";
      if (byImage && !picture.chosen) return picture.complain("Choose an image first.");
      fixedSeed = seed.value();
      const latent = byImage ? await latentOf(run) : drawn(fixedSeed, shapeOf(model));
      note.hidden = true;
      stripTitle.hidden = strip.element.hidden = true;
      fill(before, byImage ? figure("Original", picture.chosen.url, picture.chosen.name, kind) : null);
      before.hidden = !byImage;
      sliders.begin(latent);
      return "";
    }, form);

    async function latentOf(run) {
      const body = { model: model.id, image: await base64Of(picture.chosen.blob) };
      const answer = await json("/v1/encode", { body, signal: run.signal, requestId: run.requestId });
      return decoded(answer.data[0].latents);
    }

    function bodyOf(latent) {
      return { model: model.id, seed: fixedSeed, ...form.values(), latents: encoded(latent) };
    }

    async function imageOf(latent, stop) {
      const request = bodyOf(latent);
      const answer = await json("/v1/generate", { body: request, signal: stop });
      return pictureOf(answer.data[0], { model: model.id, tool: "latents", path: "/v1/generate", request });
    }

    async function draw(stop) {
      const made = await imageOf(sliders.latent, stop);
      if (stop.aborted) return;
      fill(trouble);
      if (shown && !shown.kept) URL.revokeObjectURL(shown.url);
      shown = made;
      const keep = h("button", { type: "button", onclick: () => keepIt(keep) }, "Keep this one");
      fill(now, figure("As the sliders stand", made.url, "The image of the latent as the sliders stand", kind), h("div.row", {}, keep));
    }

    function keepIt(button) {
      shown.kept = true;
      context.keep(shown);
      button.disabled = true;
      button.textContent = "Kept";
    }

    async function drawStrip(stop) {
      const place = chosenPlace;
      const latent = sliders.latent;
      stripTitle.hidden = false;
      stripTitle.textContent = `z${place + 1} from −${REACH} to ${REACH}`;
      strip.begin(FRAMES);
      const value = (index) => -REACH + (2 * REACH * index) / (FRAMES - 1);
      const frames = Array.from({ length: FRAMES }, (_, index) => changed(latent, new Map([[place, value(index)]])));
      await Promise.all(frames.map(async (frame, index) => {
        const made = await imageOf(frame, stop);
        if (!stop.aborted) strip.set(index, made);
      }));
    }

    function showWay(way) {
      seed.element.hidden = hint.hidden = way !== "seed";
      picture.element.hidden = way !== "image";
    }

    showWay(start.value());
    element.append(
      splitView([start.element, seed.element, hint, picture.element, form.element], action, note, trouble, h("div.latents-view", {}, pair, sliders.element), stripTitle, strip.element),
    );
    if (context.picture && encodesLatents(model)) {
      start.set("image");
      picture.set(context.picture);
    }
  },
});
