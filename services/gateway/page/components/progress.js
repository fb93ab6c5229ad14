/** How far a streamed call is: its place in the queue, steps, noise left, time left. */

import { announce } from "./announce.js";
import { fill, h } from "./dom.js";

/**
 * @typedef {object} ProgressView
 * @property {HTMLElement} element
 * @property {(text: string) => void} start
 * @property {(event: import("../stream.js").ServerEvent) => void} tell it of an event of the stream.
 * @property {(text: string, options?: {seconds?: number}) => void} end say how it ended.
 * @property {() => void} hide
 */

/** @returns {ProgressView} */
export function buildProgress() {
  const bar = h("progress", { max: 1, "aria-label": "Progress", hidden: true });
  const state = h("span.progress-state", {});
  const detail = h("span.progress-detail", {});
  const element = h("div.progress", { hidden: true }, h("div.progress-text", {}, state, detail), bar);
  /** @type {Map<number, {step: number, steps: number, eta: number}>} */
  const rows = new Map();
  let images = 1;
  let done = 0;

  const say = (what, about) => {
    fill(state, what);
    fill(detail, about);
    announce(`${what} ${about}`);
  };
  const advance = (sigma) => {
    const all = [...rows.values()];
    const steps = all[0]?.steps ?? 1;
    const share = all.reduce((sum, row) => sum + row.step / row.steps, 0) / images;
    bar.value = Math.min(1, share);
    const eta = Math.max(...all.map((row) => row.eta));
    const least = Math.min(...all.map((row) => row.step));
    const parts = [
      images > 1 ? `${done} of ${images} done` : null,
      Number.isFinite(sigma) ? `σ ${shortNumber(sigma)}` : null,
      eta > 0 ? `about ${duration(eta)} left` : null,
    ];
    say(`Step ${least} of ${steps}`, parts.filter(Boolean).join(" · "));
  };

  return {
    element,
    start(text) {
      rows.clear();
      images = 1;
      done = 0;
      element.hidden = false;
      element.dataset.state = "running";
      bar.hidden = false;
      bar.removeAttribute("value");
      say(text, "");
    },
    tell({ event, data }) {
      if (event === "queued") {
        images = data.images;
        const behind = data.ahead ? `behind ${data.ahead} ${data.ahead === 1 ? "image" : "images"}` : "next in line";
        say("Queued", `${behind} · about ${duration(data.seconds)} of work`);
      }
      if (event === "progress") {
        rows.set(data.index, data);
        advance(data.sigma);
      }
      if (event === "image") {
        done += 1;
        const row = rows.get(data.index);
        rows.set(data.index, { step: row?.steps ?? 1, steps: row?.steps ?? 1, eta: 0 });
        bar.value = Math.max(bar.value, done / images);
      }
    },
    end(text, { detail: about = "" } = {}) {
      bar.hidden = true;
      element.dataset.state = "ended";
      fill(state, text);
      fill(detail, about);
      announce(`${text} ${about}`, { urgent: true });
    },
    hide() {
      element.hidden = true;
    },
  };
}

/** Seconds for people: `0.4 s`, `12 s`, `3 min`. */
export function duration(seconds) {
  if (seconds < 0.0995) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 99.5) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** A number with three figures. */
export function shortNumber(value) {
  return Number(value.toPrecision(3)).toString();
}
