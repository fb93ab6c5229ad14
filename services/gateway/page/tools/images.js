/** Calls that make images: each is shown as it comes about, and kept. */

import { events } from "../api.js";
import { pictureOf } from "../visit.js";

/** Previews of each image of a call. */
const PREVIEW_EVERY = 3;

/**
 * @param {import("../registry.js").Context} context
 * @param {string} tool which asks.
 * @param {string} path `/v1/generate` or `/v1/edit`.
 * @param {Record<string, any>} body
 * @param {import("./action.js").Run} run
 * @param {Partial<import("../gallery.js").Gallery>} [gallery] shows previews and images.
 * @returns {Promise<import("../visit.js").Picture[]>} in order.
 * @throws {import("../api.js").ApiError}
 */
export async function makeImages(context, tool, path, body, run, gallery = {}) {
  const pictures = [];
  for await (const event of events(path, { ...body, preview_every: PREVIEW_EVERY }, run)) {
    run.tell(event);
    const { index, ...entry } = event.data;
    if (event.event === "progress") gallery.progress?.(index, entry.step / entry.steps);
    if (event.event === "preview") gallery.preview?.(index, entry.b64_json);
    if (event.event !== "image") continue;
    const request = repeating(body, index, entry.seed);
    pictures[index] = pictureOf(entry, { model: context.model.id, tool, path, request });
    context.keep(pictures[index]);
    gallery.finish?.(index, pictures[index]);
  }
  return pictures;
}

/** The body that makes one image of an answer again; a frame is made by its whole series. */
function repeating(body, index, seed) {
  const { n: _, ...alone } = body;
  if (body.operation === "interpolate" || seed === undefined) return body;
  // Variations share the seed of what they vary.
  if ("variation_seed" in body) return { ...alone, variation_seed: body.variation_seed + index };
  return { ...alone, seed };
}
