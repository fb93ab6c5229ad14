/** The tool that makes images from noise: a form of the model's own, and a grid of what comes. */

import { events, isAbort, newRequestId, withdraw } from "./api.js";
import { showAbout } from "./about.js";
import { showCode } from "./code.js";
import { fill, h, icon } from "./components/dom.js";
import { errorBox } from "./components/errors.js";
import { announce } from "./components/announce.js";
import { buildProgress, duration } from "./components/progress.js";
import { timingsBar } from "./components/timings.js";
import { buildDetails } from "./details.js";
import { buildForm } from "./form.js";
import { buildGallery } from "./gallery.js";
import { sheetUrl } from "./models.js";
import { fieldsOf } from "./schema.js";
import { MODIFIER } from "./shortcuts.js";
import { pictureOf } from "./visit.js";
import { drawSeed } from "./widgets.js";

const PATH = "/v1/generate";
/** Previews of each image, about. */
const PREVIEWS = 8;

/** @type {import("./registry.js").Tool} */
export const generateTool = {
  id: "generate",
  title: "Generate",
  order: 0,
  appliesTo: (model) => "generate" in model.operations,
  mount,
};

function mount(element, context) {
  const { model, signal } = context;
  const form = buildForm(fieldsFor(context), { values: context.parameters, onchange: () => context.remember(form.values()) });
  const progress = buildProgress();
  const details = buildDetails(context, { rerun });
  const gallery = buildGallery(model, { open, signal });
  const message = h("div.message", {});
  const timings = h("div", {});
  const empty = emptyState(model);
  const run = runButton();
  const canvas = h("div.split-canvas", {}, h("div.canvas-head", {}, progress.element), message, empty, h("div.result", {}, gallery.element, details.element), timings);
  let running = null;

  fill(element, h(
    "div.split",
    {},
    h(
      "form.split-form",
      { novalidate: true, "aria-label": "Parameters", onsubmit: submit },
      form.element,
      h("div.form-foot", {}, run.go, run.cancel, codeButton(() => body(), model, form)),
    ),
    canvas,
  ));
  run.cancel.addEventListener("click", cancel);
  signal.addEventListener("abort", cancel);
  if (context.restored) show(context.restored);

  function body() {
    return { model: model.id, ...form.values() };
  }

  function submit(event) {
    event.preventDefault();
    if (!running && form.check()) generate();
  }

  async function generate() {
    const asked = { ...body(), seed: form.values().seed ?? drawSeed() };
    const count = asked.n ?? 1;
    running = { requestId: newRequestId(), controller: new AbortController() };
    run.running(true);
    fill(message);
    progress.start("Sending");
    showCanvas(canvas);
    const started = performance.now();
    try {
      const done = await follow(asked, running);
      gallery.drop();
      progress.end(count === 1 ? "Done" : `${count} images`, { detail: `in ${duration((performance.now() - started) / 1000)}` });
      fill(timings, timingsBar(done.timings));
    } catch (error) {
      gallery.drop();
      fail(error);
    } finally {
      running = null;
      run.running(false);
    }
  }

  /** Show every event of the stream; the last one's data. */
  async function follow(asked, { requestId, controller }) {
    const sent = { ...asked, preview_every: asked.preview_every ?? previewEvery(asked, model) };
    for await (const event of events(PATH, sent, { signal: controller.signal, requestId })) {
      const { event: kind, data } = event;
      if (kind === "queued") begin(asked.n ?? 1, asked.seed);
      progress.tell(event);
      if (kind === "preview") gallery.preview(data.index, data.b64_json);
      if (kind === "progress") gallery.progress(data.index, data.step / data.steps);
      if (kind === "image") finish(data, asked);
      if (kind === "done") return data;
    }
    return null;
  }

  /** Once the service has taken the request, what was shown makes room. */
  function begin(count, seed) {
    fill(timings);
    details.show(null);
    empty.hidden = true;
    gallery.begin(count, seed);
  }

  function finish(entry, { n, ...asked }) {
    const request = { ...asked, seed: entry.seed ?? asked.seed };
    const picture = pictureOf(entry, { model: model.id, tool: "generate", path: PATH, request });
    gallery.finish(entry.index, picture);
    context.keep(picture);
    if ((n ?? 1) === 1) chosen(picture);
  }

  function fail(error) {
    if (isAbort(error)) {
      progress.end("Canceled");
      return;
    }
    progress.hide();
    if (form.complain(error)) announce(error.message, { urgent: true });
    else fill(message, errorBox(error, { retry: generate }));
  }

  function cancel() {
    if (!running) return;
    // By its id the request ends even where a proxy keeps our connection to the service open.
    withdraw(running.requestId).catch(() => {});
    running.controller.abort();
  }

  /** A click on an image shows it, and keeps its seed for what is made next. */
  function open(picture) {
    form.set({ ...form.values(), seed: picture.seed });
    context.remember(form.values());
    chosen(picture);
    announce(`Seed ${picture.seed} is kept for the next images.`, { urgent: true });
  }

  function chosen(picture) {
    gallery.select(picture);
    details.show(picture);
  }

  function rerun(picture) {
    form.set({ ...form.values(), seed: picture.seed, n: undefined });
    context.remember(form.values());
    if (!running && form.check()) generate();
  }

  function show(picture) {
    empty.hidden = true;
    gallery.begin(1, picture.seed);
    gallery.finish(0, picture);
    chosen(picture);
  }
}

/** On a narrow page the canvas is below the form. */
function showCanvas(canvas) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (canvas.getBoundingClientRect().top < innerHeight - 80) return;
  canvas.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

/** The model's own fields, and those of the answer. */
function fieldsFor({ model, models }) {
  const enlargers = models.filter(({ operations }) => "super_resolution" in operations).map(({ id }) => id);
  const answer = { initial: null, required: false, advanced: true };
  return [
    ...fieldsOf(model.operations.generate, model),
    ...(enlargers.length
      ? [{ ...answer, name: "cascade", title: "Enlarge with", kind: "choice", choices: enlargers, description: "A model that enlarges what this one makes, in the same request." }]
      : []),
    { ...answer, name: "output_format", title: "Output format", kind: "choice", choices: ["png", "jpeg", "webp"], initial: "png", description: "How the images are encoded." },
    { ...answer, name: "preview_every", title: "Preview every", kind: "integer", minimum: 1, maximum: 1000, description: "A preview of every image after each so many evaluations." },
  ];
}

function previewEvery(asked, model) {
  const steps = asked.steps ?? model.limits.defaults?.steps ?? PREVIEWS;
  return Math.max(1, Math.round(steps / PREVIEWS));
}

function runButton() {
  const go = h(
    "button.primary.run",
    { type: "submit", dataset: { key: "run" } },
    h("span", {}, "Generate"),
    h("kbd", { "aria-hidden": "true" }, `${MODIFIER} ↵`),
  );
  const cancel = h(
    "button.run.cancel",
    { type: "button", hidden: true, dataset: { key: "cancel" } },
    h("span", {}, "Cancel"),
    h("kbd", { "aria-hidden": "true" }, "Esc"),
  );
  return {
    go,
    cancel,
    running(is) {
      const hadFocus = [go, cancel].includes(document.activeElement);
      go.hidden = is;
      cancel.hidden = !is;
      if (hadFocus) (is ? cancel : go).focus();
    },
  };
}

function codeButton(body, model, form) {
  return h(
    "button.icon-only",
    { type: "button", "aria-label": "As code", title: "As curl or Python", onclick: () => form.check() && showCode(body(), model) },
    icon("code"),
  );
}

/** Before anything is made: what the model makes. The sheet's place is kept while it loads. */
function emptyState(model) {
  const sheet = h("div.empty-sheet", {});
  sheetUrl(model.id).then((url) => (url ? fill(sheet, h("img.sharp", { src: url, alt: `Samples of ${model.id}` })) : sheet.remove()));
  return h(
    "div.empty",
    {},
    sheet,
    h("p", {}, model.description),
    h("button", { type: "button", onclick: () => showAbout(model) }, icon("info"), `About ${model.id}`),
  );
}
