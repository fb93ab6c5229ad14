/** What this visit has made: every picture with the request that makes it again. */

import { newRequestId } from "./api.js";
import { remember, remembered } from "./remembered.js";

/**
 * @typedef {object} Picture
 * @property {string} id of this visit.
 * @property {Blob} blob encoded, as it came.
 * @property {string} url an object URL of it.
 * @property {string} model
 * @property {string} tool which made it.
 * @property {string} path that was posted to, such as `/v1/generate`.
 * @property {Record<string, any>} request the body that makes this one picture again, without
 *   `response`.
 * @property {number|null} seed
 * @property {string|null} revisedPrompt
 * @property {number} created milliseconds since 1970.
 */

/** @type {Picture[]} */
const pictures = [];
const listeners = new Set();

/** Everything so far, newest first. Do not change it: use `keep`. */
export function visit() {
  return pictures;
}

/** @param {Picture} picture */
export async function keep(picture) {
  add(picture);
  const { blob, url: _, ...about } = picture;
  remember({ ...about, base64: await base64Of(blob) });
}

/** Bring back what this tab made before the page was loaded again. */
export function recall() {
  for (const { base64, ...about } of remembered()) {
    try {
      const blob = blobOf(base64);
      add({ ...about, blob, url: URL.createObjectURL(blob) });
    } catch (error) {
      console.warn("a picture of this visit could not be brought back", error);
    }
  }
}

function add(picture) {
  pictures.unshift(picture);
  for (const listener of listeners) listener(picture);
}

/** Be told of every picture that is kept. */
export function onKeep(listener) {
  listeners.add(listener);
}

/**
 * A picture from an answer's entry.
 *
 * @param {{b64_json: string, seed?: number, revised_prompt?: string}} entry
 * @param {{model: string, tool: string, path: string, request: Record<string, any>}} origin
 * @returns {Picture}
 */
export function pictureOf(entry, origin) {
  const blob = blobOf(entry.b64_json);
  return {
    id: newRequestId(),
    blob,
    url: URL.createObjectURL(blob),
    seed: entry.seed ?? null,
    revisedPrompt: entry.revised_prompt ?? null,
    created: Date.now(),
    ...origin,
  };
}

const SIGNATURES = { iVBOR: "image/png", "/9j/": "image/jpeg", UklGR: "image/webp" };

/** An encoded image of the API as a blob of the type that its first bytes say. */
export function blobOf(base64) {
  const start = Object.keys(SIGNATURES).find((signature) => base64.startsWith(signature));
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: SIGNATURES[start] ?? "application/octet-stream" });
}

/** A blob in base64, as the API takes images. */
export async function base64Of(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}
